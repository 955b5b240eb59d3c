"""Our 4 bits against bitsandbytes': bytes, constants, values, layers, gradients and a training run.

bitsandbytes' weights are freshly quantised or in train mode throughout. Its first evaluation on a processor with
AVX512-BF16 rewrites them (tests/models/test_packed.py). Its own kernel for dequantising mixes blocks up where rows are
a multiple of 16 wide and no multiple of a block (findings/bitsandbytes_dequantize_4bit_mixes_blocks_on_cpu.sh): such
shapes are compared with its plain implementation, in Python.
"""

import bitsandbytes
import pytest
import torch
from bitsandbytes import functional
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from peft import PeftModel
from torch import nn
from trained_by_hand import losses_by_hand

from course_lib.adapters import inject_lora, lora_parameters, save_adapter
from course_lib.data import batches, style_corpus, token_blocks
from course_lib.finetuning.model import load_base
from course_lib.finetuning.settings import complete
from course_lib.quantization import Linear4bit, dynamic_map, quantize_4bit
from course_lib.quantization.levels import LEVELS
from course_lib.training import Trainer, TrainingConfig

ROOM = "quantization"
KINDS = ("nf4", "fp4")


def theirs_of(weight, quant_type, block_size, double_quant):
    return functional.quantize_4bit(
        weight, blocksize=block_size, quant_type=quant_type, compress_statistics=double_quant
    )


def dequantised_by_them(packed, state):
    """By their kernel where it reads the blocks rightly, else by their plain implementation."""
    width = state.shape[-1]
    has_kernel = len(state.shape) > 1 and width % 2 == 0 and state.blocksize < 2048
    if has_kernel and (width % state.blocksize == 0 or width % 16):
        return functional.dequantize_4bit(packed, state)
    absmax = state.absmax
    if state.nested:
        absmax = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    plain = _dequantize_4bit_compute.__wrapped__  # without torch.compile
    return plain(packed.flatten(), absmax, state.code, state.blocksize, state.shape, state.dtype).view(state.shape)


def differences(weight, quant_type, block_size, double_quant):
    """How many bytes, constants and values differ."""
    ours = quantize_4bit(weight, quant_type, block_size, double_quant)
    packed, state = theirs_of(weight, quant_type, block_size, double_quant)
    pairs = [(ours.packed, packed.flatten()), (ours.absmax, state.absmax)]
    if double_quant:
        pairs += [(ours.nested_absmax, state.state2.absmax), (ours.nested_offset, state.offset)]
        assert torch.equal(dynamic_map(), state.state2.code)
    pairs.append((ours.dequantize(), dequantised_by_them(packed, state)))
    assert all(one.dtype == other.dtype and one.shape == other.shape for one, other in pairs)
    return sum(int((one != other).sum()) for one, other in pairs)


def test_the_tables_are_theirs():
    for kind in KINDS:
        assert torch.equal(LEVELS[kind](), functional.get_4bit_type(kind, device="cpu"))
    assert torch.equal(dynamic_map(), functional.create_dynamic_map())


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("quant_type", KINDS)
def test_made_up_weights(quant_type, double_quant, parity):
    """Widths that are no multiple of a block, odd numbers of weights, short last blocks, zeros, three dtypes."""
    draw, differing, compared = torch.Generator().manual_seed(0), 0, 0
    for shape in [(1, 1), (100,), (37, 37), (37, 100), (3, 64), (576, 576), (64, 1024), (700, 1000)]:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for block_size in (32, 64, 128, 1024, 4096):
                weight = torch.randn(shape, generator=draw).to(dtype)
                if len(shape) > 1:
                    weight[shape[0] // 2] = 0
                differing += differences(weight, quant_type, block_size, double_quant)
                compared += weight.numel()
    assert differences(torch.zeros(5, 100), quant_type, 64, double_quant) == 0
    kind = quant_type.upper() + (" with double quantisation" if double_quant else "")
    what = f"{kind}: bytes, constants and values that differ, of {compared:,} made-up weights"
    parity.exact(what, "bitsandbytes", differing)


@pytest.mark.parametrize("quant_type", KINDS)
def test_boundaries(quant_type):
    """Numbers in the middle between two levels and the floats beside them: the last bit decides, as it does there."""
    levels = LEVELS[quant_type]().sort().values
    middles = (levels[:-1] + levels[1:]) / 2
    beside = [torch.nextafter(middles, torch.tensor(end)) for end in (-2.0, 2.0)]
    numbers = torch.cat([torch.ones(1), middles, *beside, torch.zeros(64 - 1 - 3 * len(middles))])
    for scale in (1.0, 0.3, 1e-3, 7.7):
        weight = (numbers * scale).expand(3, 64).flatten()[:150]  # two blocks and a short one
        assert differences(weight, quant_type, 64, False) == 0


@pytest.mark.weights
def test_real_weights(smollm2, parity):
    """Every linear layer of SmolLM2's first and last block."""
    model, _ = smollm2
    layers = [
        layer.weight.detach()
        for index in (0, 29)
        for layer in model.model.layers[index].modules()
        if isinstance(layer, nn.Linear)
    ]
    differing = sum(differences(weight, kind, 64, True) for weight in layers for kind in KINDS)
    count = sum(weight.numel() for weight in layers)
    what = f"NF4 and FP4 with double quantisation: bytes, constants and values that differ, of {count:,} of SmolLM2's"
    parity.exact(what, "bitsandbytes", differing)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("double_quant", [False, True])
def test_layers_in_train_mode(double_quant, dtype, parity):
    """Outputs and gradients of one layer, in train mode: theirs computes with the dequantised weight there."""
    torch.manual_seed(0)
    plain = nn.Linear(192, 128).to(dtype)
    ours = Linear4bit.from_plain(plain, double_quant=double_quant)
    theirs = bitsandbytes.nn.Linear4bit(192, 128, quant_type="nf4", compress_statistics=double_quant)
    theirs.load_state_dict(plain.state_dict())
    theirs.to(dtype).to("cpu").train()
    x = torch.randn(4, 9, 192, dtype=dtype)
    results = []
    for layer in (ours, theirs):
        given = x.clone().requires_grad_(True)
        y = layer(given)
        y.float().square().sum().backward()
        results.append((y.detach().float(), given.grad.float()))
    tolerance, why = (1e-6, "float32") if dtype == torch.float32 else (8e-3, "bfloat16 has 8 bits")
    kind = f"4-bit layer, {str(dtype).removeprefix('torch.')}" + (", double quantisation" if double_quant else "")
    for (what, one), other in zip(zip(("output", "input gradient"), results[0], strict=True), results[1], strict=True):
        parity.close(f"{kind}: {what}", "bitsandbytes", one, other, tolerance, f"the same product in {why}")


@pytest.mark.slow
@pytest.mark.weights
def test_the_same_training_run(smollm2, parity, tmp_path):
    """30 steps of QLoRA on SmolLM2: ours, and bitsandbytes with PEFT in a plain torch loop, on the same batches.

    Both bases are those of `course train --mode qlora`. bitsandbytes' is never evaluated.
    """
    ours, base = (
        load_base(complete({"mode": "qlora", "backend": backend}), tmp_path) for backend in ("ours", "bitsandbytes")
    )
    torch.manual_seed(0)
    inject_lora(ours, ["q_proj", "v_proj"], rank=8, alpha=16)
    save_adapter(ours, tmp_path / "start")
    theirs = PeftModel.from_pretrained(base, tmp_path / "start", is_trainable=True).train()
    order = list(batches(token_blocks(style_corpus(), smollm2[1], 32), 4, 30, seed=0))

    records = Trainer(ours, TrainingConfig(lr=1e-3, warmup_steps=3), log_every=0).train(order)

    trained = [p for p in theirs.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == sum(p.numel() for p in lora_parameters(ours))
    losses = losses_by_hand(theirs, order, lr=1e-3, warmup_steps=3)

    assert losses[-1] < losses[0] - 0.5
    worst = max(abs(record.loss - loss) / loss for record, loss in zip(records, losses, strict=True))
    why = "float32, sums in other orders, fed back through 30 updates"
    what = "QLoRA on SmolLM2: the largest difference of a loss in 30 steps"
    parity.within(what, "bitsandbytes and PEFT", worst, 1e-3, why, unit="relative")
