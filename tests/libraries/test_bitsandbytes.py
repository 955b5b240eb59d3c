"""What bitsandbytes does on a CPU that changes a result and raises nothing."""

import pytest
import torch
from bitsandbytes import functional
from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit


def four_bits(plain, **options):
    layer = Linear4bit(plain.in_features, plain.out_features, bias=False, **options)
    layer.weight = Params4bit(plain.weight.data.clone(), requires_grad=False, **options)
    return layer.to("cpu")


@pytest.mark.library(
    package="bitsandbytes",
    happens="The function `quantize_4bit` makes FP4, and the layer `Linear4bit` its own default; neither says NF4",
    expected="Four bits means NF4 with double quantisation, as in the QLoRA paper.",
    instead='Write `quant_type="nf4", compress_statistics=True` (`bnb_4bit_quant_type="nf4"` in transformers) every '
    "time.",
    chapter="05_qlora",
)
def test_the_default_is_fp4():
    _, state = functional.quantize_4bit(torch.randn(64, 64))
    assert (state.quant_type, state.nested) == ("fp4", False)
    layer = four_bits(torch.nn.Linear(64, 64, bias=False))
    state = layer.weight.quant_state
    assert (state.quant_type, state.nested) == ("fp4", True)


@pytest.mark.library(
    package="bitsandbytes",
    happens="In 8 bits, a zero does not come back as a zero on a CPU, and `AdamW8bit` moves weights without a gradient",
    expected="A number that the 8-bit map contains comes back exactly, zero above all.",
    instead="Keep the moments in float32, or exclude embeddings from 8-bit states: rows of tokens that do not occur "
    "drift.",
    chapter="05_qlora",
)
def test_a_zero_in_8_bits():
    from bitsandbytes.optim import AdamW8bit, AdamW32bit

    block = torch.zeros(256)
    block[0] = 1.0
    codes, state = functional.quantize_blockwise(block, blocksize=256)
    assert functional.dequantize_blockwise(codes, state)[1:].abs().min() > 1e-5

    def moved(kind):
        weight = torch.nn.Parameter(torch.ones(8192))
        optimizer = kind([weight], lr=1e-3, weight_decay=0.0)
        for _ in range(5):
            weight.grad = torch.randn(8192)
            weight.grad[1::2] = 0.0
            optimizer.step()
        return (weight.detach() - 1)[1::2].abs().max().item()

    assert moved(AdamW32bit) == 0.0
    assert moved(AdamW8bit) > 1e-6


@pytest.mark.library(
    package="bitsandbytes",
    happens="An 8-bit linear layer computes another function in `train()` than in `eval()` on a CPU",
    expected="A layer without dropout computes the same in both modes.",
    instead="`train()` leaves the activations as they are; `eval()` rounds them to 8 bits. Compare training and "
    "held-out loss "
    "in the same mode.",
    chapter="05_qlora",
)
def test_int8_in_train_and_eval():
    torch.manual_seed(0)
    plain, x = torch.nn.Linear(64, 32, bias=False), torch.randn(8, 64)
    x[:, 3] *= 50  # one outlier feature
    layer = Linear8bitLt(64, 32, bias=False, has_fp16_weights=False, threshold=0.0)
    layer.weight = Int8Params(plain.weight.data.clone(), requires_grad=False, has_fp16_weights=False)
    layer = layer.to("cpu")
    with torch.no_grad():
        train, evaluation = ((mode()(x) - plain(x)).abs().mean().item() for mode in (layer.train, layer.eval))
    assert evaluation > 2 * train


@pytest.mark.library(
    package="PEFT",
    happens="Merging a LoRA into a 4-bit layer with PEFT rounds the sum to 4 bits again",
    expected="After `merge_and_unload` the layer computes what base and adapter computed together.",
    instead="Merge into the dequantised base: `course_lib.adapters.merge` does, and the layer is a plain "
    "one "
    "afterwards.",
    chapter="05_qlora",
)
def test_merging_requantises():
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    plain = torch.nn.Linear(64, 64, bias=False)
    model = torch.nn.ModuleDict({"layer": four_bits(plain, quant_type="nf4")}).train()
    model.is_loaded_in_4bit = True  # as on a model that transformers has loaded
    config = LoraConfig(r=4, target_modules=["layer"], init_lora_weights=False)
    adapted = inject_adapter_in_model(config, model)["layer"]
    change = adapted.get_delta_weight("default").detach()
    base = functional.dequantize_4bit(adapted.base_layer.weight.data, adapted.base_layer.weight.quant_state)
    adapted.merge()
    merged = adapted.base_layer.weight
    assert merged.quant_state.quant_type == "nf4"
    found = functional.dequantize_4bit(merged.data, merged.quant_state)
    assert (found - (base + change)).norm() > 0.05 * change.norm()


@pytest.mark.library(
    package="bitsandbytes",
    happens="Left at None, `compute_dtype` becomes the type of the first input and stays so",
    expected="Without a setting, the layer computes in the type of each input.",
    instead="Set `compute_dtype` (`bnb_4bit_compute_dtype` in transformers): a first call with a float32 probe "
    "otherwise "
    "decides how the whole run computes.",
    chapter="05_qlora",
)
def test_the_first_input_decides():
    layer = four_bits(torch.nn.Linear(64, 64, bias=False), quant_type="nf4").train()
    layer(torch.randn(1, 64, dtype=torch.bfloat16))
    assert layer.compute_dtype == torch.bfloat16
    layer(torch.randn(1, 64))
    assert layer.compute_dtype == torch.bfloat16
