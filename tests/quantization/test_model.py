"""Whole models: which layers are quantised, that adapters train on them, merging, and what is refused."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from course_lib.adapters import disable_adapters, inject_lora, lora_parameters, merge, save_merged, unload, unmerge
from course_lib.errors import CourseError
from course_lib.models.config import CONFIGS
from course_lib.models.decoder import Decoder
from course_lib.models.fused import plain_operations
from course_lib.quantization import Linear4bit, dequantize_model, is_quantized, quantize_4bit, quantize_model
from course_lib.training import Trainer, TrainingConfig

IDS = torch.randint(0, 60, (2, 12), generator=torch.Generator().manual_seed(0))


def decoder(name):
    torch.manual_seed(0)
    return Decoder(replace(CONFIGS[name], vocab_size=97, dropout=0.0)).eval()


@pytest.fixture(params=["llama", "gpt2", "our llama", "our gpt2"])
def model(request, tiny_llama):
    torch.manual_seed(0)
    if request.param == "llama":
        return tiny_llama
    if request.param == "gpt2":
        sizes = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
        special = {"bos_token_id": None, "eos_token_id": None}
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2LMHeadModel(GPT2Config(**sizes, **special, **dropout)).eval()
    return decoder("tiny-gpt" if request.param == "our gpt2" else "modern-1m")


def targets(model):
    return ["c_attn", "c_proj"] if model.config.model_type == "gpt2" else ["q_proj", "v_proj", "down_proj"]


def train_some(model, adapter_seed=0):
    """An adapter that is not zero, after three steps."""
    torch.manual_seed(adapter_seed)
    inject_lora(model, targets(model), rank=4, alpha=8)
    Trainer(model, TrainingConfig(lr=1e-2)).train([IDS] * 3)
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_every_linear_layer_but_the_head(model):
    plain = copy.deepcopy(model)
    assert quantize_model(model, double_quant=True) is model
    linear = {name for name, layer in plain.named_modules() if type(layer).__name__ in ("Linear", "Conv1D")}
    quantized = {name for name, layer in model.named_modules() if is_quantized(layer)}
    assert quantized == linear - {"lm_head"}
    assert len(quantized) > 3
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, plain.get_parameter(name)), name
    assert 0 < (logits(model) - logits(plain)).abs().max() < 1


def test_dequantized_it_computes_the_same(model):
    before = logits(quantize_model(model))
    assert torch.equal(logits(dequantize_model(copy.deepcopy(model))), before)
    plain = dequantize_model(model)
    assert not any(is_quantized(layer) for layer in plain.modules())
    with pytest.raises(CourseError, match="nothing to dequantise"):
        dequantize_model(plain)


def test_training_on_4_bits_is_training_on_the_dequantised_weights(model):
    """The same products of the same numbers: three steps leave the same adapter, up to the order of sums."""
    quantize_model(model)
    dequantised = dequantize_model(copy.deepcopy(model))
    for one, other in zip(*(lora_parameters(train_some(each)) for each in (model, dequantised)), strict=True):
        # AdamW divides by the gradient's size, which makes rounding visible: a thousandth of the learning rate.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(model), logits(dequantised))


def test_the_fast_form_and_the_plain_one_have_the_same_gradients():
    """Our decoder's fused parts dequantise for themselves; autograd through the modules is the reference."""
    model = quantize_model(decoder("modern-1m"))
    inject_lora(model, targets(model), rank=4)
    for parameter in lora_parameters(model):
        nn.init.normal_(parameter, std=0.1)
    found = []
    for fast in (True, False):
        model.zero_grad()
        if fast:
            model(IDS, labels=IDS).loss.backward()
        else:
            with plain_operations():
                model(IDS, labels=IDS).loss.backward()
        found.append([parameter.grad.clone() for parameter in lora_parameters(model)])
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-6)


def test_merging_goes_into_the_dequantised_base(model, tmp_path):
    """Merged, unmerged, unloaded and saved: the logits stay, and unmerging brings the codes back bit for bit."""
    train_some(quantize_model(model, double_quant=True))
    before, with_disabled = logits(model), None
    with disable_adapters(model):
        with_disabled = logits(model)
    codes = {name: buffer.clone() for name, buffer in model.named_buffers() if name.endswith("packed")}
    report = merge(model)
    assert (report.dtype, report.max_error) == ("float32", 0)
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-5)  # one sum of products, or two
    unmerge(model)
    assert torch.equal(logits(model), before)
    with disable_adapters(model):
        assert torch.equal(logits(model), with_disabled)
    assert all(torch.equal(buffer, dict(model.named_buffers())[name]) for name, buffer in codes.items())
    if hasattr(model, "save_pretrained"):
        save_merged(model, tmp_path / "merged")
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
        torch.testing.assert_close(logits(loaded), before, rtol=1e-4, atol=1e-5)
        assert torch.equal(logits(model), before)
    merge(model)
    torch.testing.assert_close(logits(unload(model)), before, rtol=1e-4, atol=1e-5)


def test_merging_into_the_original_base_gives_another_model(tiny_llama):
    """What users report: the adapter corrects the errors of 4 bits, which the original weights do not have."""
    original = copy.deepcopy(tiny_llama)
    trained = train_some(quantize_model(tiny_llama))
    inject_lora(original, targets(original), rank=4, alpha=8)
    with torch.no_grad():
        for there, here in zip(lora_parameters(original), lora_parameters(trained), strict=True):
            there.copy_(here)
    merge(original)
    dequantised = copy.deepcopy(trained)
    merge(dequantised)
    right = (logits(dequantised) - logits(trained)).abs().max()
    wrong = (logits(original) - logits(trained)).abs().max()
    assert wrong > 100 * right


def test_a_base_can_be_quantised_under_an_adapter(tiny_llama):
    train_some(tiny_llama)
    names = [name for name, _ in tiny_llama.named_parameters() if "adapters" in name]
    quantize_model(tiny_llama)
    assert [name for name, _ in tiny_llama.named_parameters() if "adapters" in name] == names
    assert is_quantized(tiny_llama.get_submodule("model.layers.0.self_attn.q_proj.base"))


def test_skipping_and_tied_weights(tiny_llama):
    """Ends of names stay; a head that is the embedding stays whatever is asked; a head of its own need not."""
    tied = copy.deepcopy(tiny_llama)
    tied.lm_head.weight = tied.model.embed_tokens.weight
    quantize_model(tied, skip=())
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    quantize_model(tiny_llama, skip=["down_proj", "layers.0.mlp.up_proj"])
    assert is_quantized(tiny_llama.get_submodule("model.layers.1.mlp.up_proj"))
    for name in ("layers.0.mlp.up_proj", "layers.0.mlp.down_proj", "layers.1.mlp.down_proj"):
        assert not is_quantized(tiny_llama.get_submodule(f"model.{name}"))
    assert is_quantized(tiny_llama.lm_head)  # it is not in this list, and has a weight of its own


def test_options_reach_the_layers(tiny_llama):
    options = {"quant_type": "int4", "block_size": 32, "double_quant": True, "compute_dtype": torch.bfloat16}
    weight = tiny_llama.model.layers[1].mlp.up_proj.weight.clone()
    layer = quantize_model(tiny_llama, **options).model.layers[1].mlp.up_proj
    assert torch.equal(layer.weight, quantize_4bit(weight, "int4", 32, True).dequantize())
    assert layer.compute_dtype == torch.bfloat16


def test_bfloat16(tiny_llama):
    """A bfloat16 model in 4 bits: trained, merged, and cast, its constants keep their precision."""
    model = quantize_model(tiny_llama.to(torch.bfloat16))
    before = logits(model)
    assert before.dtype == torch.bfloat16
    assert torch.equal(logits(dequantize_model(copy.deepcopy(model))), before)
    train_some(model)
    trained = logits(model)
    assert merge(model).dtype == "bfloat16"
    # Merged weights are rounded to 8 bits: a hundredth of the logits' size
    assert (logits(model) - trained).abs().max() < 0.02 * trained.abs().max()


def test_refused_and_left_alone(tiny_llama):
    plain = copy.deepcopy(tiny_llama)
    with pytest.raises(CourseError, match="give a list"):
        quantize_model(tiny_llama, skip="lm_head")
    with pytest.raises(CourseError, match="There is no 4-bit kind 'nf8'"):
        quantize_model(tiny_llama, quant_type="nf8")
    with pytest.raises(CourseError, match="has no linear layer to quantise"):
        quantize_model(nn.ModuleDict({"lm_head": nn.Linear(4, 4)}))
    with torch.no_grad():
        tiny_llama.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(CourseError, match=r"model\.layers\.1\.mlp\.down_proj: The weights hold NaN or infinity"):
        quantize_model(tiny_llama)
    assert not any(isinstance(layer, Linear4bit) for layer in tiny_llama.modules())
    quantize_model(plain)
    with pytest.raises(CourseError, match=r"model\.layers\.0\.self_attn\.q_proj is quantised already"):
        quantize_model(plain)


def test_a_merged_adapter_is_refused(tiny_llama):
    train_some(tiny_llama)
    merge(tiny_llama)
    with pytest.raises(CourseError, match="merged into .*: unmerge it"):
        quantize_model(tiny_llama)
