"""An adapter remembers how its base was quantised, and does not go on a base in 4 bits of another kind."""

import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from course_lib.adapters import inject_lora, load_adapter, save_adapter
from course_lib.adapters.lora import lora_layers
from course_lib.errors import CourseError
from course_lib.quantization import quantize_model


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes))


@pytest.fixture(scope="module")
def qlora_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qlora")
    model = quantize_model(llama(), double_quant=True)
    inject_lora(model, ["q_proj", "v_proj"], 2, 4.0)
    for _, layer in lora_layers(model):
        torch.nn.init.normal_(layer.B)
    save_adapter(model, folder, "a-base")
    return folder


@pytest.mark.parametrize("how", [{"quant_type": "fp4", "double_quant": True}, {}, {"block_size": 32}])
def test_another_kind_is_refused_and_the_model_stays(qlora_folder, how):
    model = quantize_model(llama(), **how)
    before = model.state_dict().keys()
    with pytest.raises(CourseError, match="trained on a base in nf4, blocks of 64 with double quantisation, and model"):
        load_adapter(model, qlora_folder)
    assert model.state_dict().keys() == before


def test_the_same_kind_and_a_base_in_full_precision_are_right(qlora_folder):
    for model in (quantize_model(llama(), double_quant=True), llama()):
        assert len(load_adapter(model, qlora_folder)) == 2


def test_an_adapter_of_a_float_base_goes_on_any(tmp_path):
    model = inject_lora_on(llama())
    save_adapter(model, tmp_path, "a-base")
    with safe_open(tmp_path / "adapter_model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert load_adapter(quantize_model(llama(), quant_type="int4"), tmp_path)


def inject_lora_on(model):
    inject_lora(model, ["q_proj"], 2, 4.0)
    return model


def test_bitsandbytes_layers_count_too(qlora_folder, tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    llama().save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, device_map={"": "cpu"}, quantization_config=config)
    with pytest.raises(CourseError, match="here is in fp4, blocks of 64 with double quantisation"):
        load_adapter(model, qlora_folder)


def test_peft_reads_the_file_and_does_not_warn(qlora_folder):
    from peft import PeftModel

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(llama(), qlora_folder)
    assert not [each for each in said if "Unexpected keyword" in str(each.message)]
    state = load_file(qlora_folder / "adapter_model.safetensors")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_B"
    assert torch.equal(model.state_dict()[f"{key}.default.weight"], state[f"{key}.weight"])


def test_a_damaged_record(qlora_folder, tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((qlora_folder / name).read_bytes())
    state = load_file(tmp_path / "adapter_model.safetensors")
    save_file(state, tmp_path / "adapter_model.safetensors", metadata={"format": "pt", "base_quantization": "nf4"})
    with pytest.raises(CourseError, match="is damaged: its metadata base_quantization is 'nf4'"):
        load_adapter(llama(), tmp_path)
