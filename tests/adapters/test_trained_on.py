"""An adapter remembers how its base was quantised, and does not go on a base in 4 bits of another kind."""

import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from course_lib.adapters import inject_lora, load_adapter, merge, save_adapter
from course_lib.adapters.lora import lora_layers
from course_lib.adapters.trained_on import in_words
from course_lib.errors import CourseError
from course_lib.finetuning.export import quantization_of_adapter
from course_lib.quantization import load_dequantized, load_quantized, quantize_model
from course_lib.quantization.linear import Linear4bit

IDS = torch.arange(12)[None]


def llama(**changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2} | changes
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


SKIPS = {"down_proj": ("lm_head", "down_proj"), "adapted": ("lm_head", "q_proj", "v_proj"), "nothing": ()}


@pytest.fixture(scope="module", params=SKIPS.values(), ids=SKIPS)
def trained(request, tmp_path_factory):
    """A base of two blocks, an adapter that was trained on it with these layers left out, and the logits of both."""
    folder = tmp_path_factory.mktemp("skipped")
    llama(num_hidden_layers=2, initializer_range=0.1).save_pretrained(folder / "base")
    model = load_quantized(folder / "base", skip=request.param)
    inject_lora(model, ["q_proj", "v_proj"], 2, 4.0)
    for _, layer in lora_layers(model):
        torch.nn.init.normal_(layer.B)
    save_adapter(model, folder / "adapter", "a-base")
    return folder, request.param, model(IDS).logits


@torch.no_grad()
def test_the_layers_left_out_are_left_out_again(trained):
    folder, skip, expected = trained
    how = quantization_of_adapter(folder / "adapter", folder / "adapter")
    again, plain = load_quantized(folder / "base", **how), load_dequantized(folder / "base", **how)
    for model in (again, plain):
        load_adapter(model, folder / "adapter")
        torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-4, atol=1e-5)
    in_4_bits = {name for name, module in again.named_modules() if isinstance(module, Linear4bit)}
    assert len(in_4_bits) == 15 - 2 * len([name for name in skip if name != "lm_head"]) - ("lm_head" in skip)
    without = load_dequantized(folder / "base", **{key: value for key, value in how.items() if key != "skip"})
    load_adapter(without, folder / "adapter")
    assert (without(IDS).logits - expected).abs().max() > 1e-3  # another set of layers is another model
    for model in (again, plain):
        merge(model)
        torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-4, atol=1e-5)


def test_a_base_with_other_layers_in_4_bits_is_refused(trained):
    folder, skip, _ = trained
    if skip:
        said = r"with model.layers.0.\S+ in full precision, and here it is in 4 bits: quantise the base with skip=\["
        model = load_quantized(folder / "base")
    else:
        said = "with model.layers.0.mlp.up_proj in 4 bits, and here it is in full precision"
        model = load_quantized(folder / "base", skip=("up_proj",))
    before = model.state_dict().keys()
    with pytest.raises(CourseError, match=said):
        load_adapter(model, folder / "adapter")
    assert model.state_dict().keys() == before


def test_the_layers_left_out_in_words():
    about = {"quant_type": "nf4", "block_size": 64, "double_quant": False}
    assert in_words(about | {"skip": ["lm_head"]}) == in_words(about) == "nf4, blocks of 64"
    assert in_words(about | {"skip": ["a.b", "lm_head"]}) == "nf4, blocks of 64, without a.b"
    assert in_words(about | {"skip": ["a.b", "a.c", "a.d"]}) == "nf4, blocks of 64, without a.b and 2 other layers"


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
    record = '{"quant_type": "nf4", "block_size": 64, "double_quant": false, "skip": "lm_head"}'
    save_file(state, tmp_path / "adapter_model.safetensors", metadata={"format": "pt", "base_quantization": record})
    with pytest.raises(CourseError, match="is damaged: its metadata base_quantization is"):
        load_adapter(llama(), tmp_path)
