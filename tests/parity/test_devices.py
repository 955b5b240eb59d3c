"""Parity on every device that is here: the CPU, and the GPU where torch sees one. `.ci/gpu` runs this file on a GPU.

The other files of this folder compare on the CPU, where sums come out alike at each run. Here float32 products are
exact products on both devices (no TF32), so the tolerances are those of another order of adding.
"""

import copy

import bitsandbytes.functional
import pytest
import torch
from peft import LoraConfig, get_peft_model
from trained_by_hand import losses_by_hand

from course_lib.adapters import inject_lora, lora_layers, save_adapter
from course_lib.inference import generate
from course_lib.models.huggingface import load_decoder
from course_lib.quantization import quantize_4bit
from course_lib.training import Trainer, TrainingConfig

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
TARGETS = ["q_proj", "v_proj"]


@pytest.fixture(params=DEVICES)
def device(request):
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield request.param
    torch.backends.cuda.matmul.allow_tf32 = before


def tokens(rows, length, seed=0):
    return torch.randint(0, 97, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_the_decoders_logits_are_transformers(tiny_llama, device, tmp_path):
    tiny_llama.save_pretrained(tmp_path)
    ours, theirs = load_decoder(tmp_path).to(device).eval(), tiny_llama.to(device)
    ids = tokens(3, 24).to(device)
    with torch.no_grad():
        expected = theirs(ids).logits
        torch.testing.assert_close(ours(ids).logits, expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.01


def test_greedy_tokens_are_transformers(tiny_llama, device):
    tiny_llama.to(device)
    prompt = [5, 9, 31, 7]
    given = torch.tensor([prompt], device=device)
    expected = tiny_llama.generate(given, max_new_tokens=20, do_sample=False, eos_token_id=None)
    assert generate(tiny_llama, [prompt], 20, eos_token_id=())[0] == expected[0, 4:].tolist()


def test_a_lora_run_is_pefts(tiny_llama, device, tmp_path):
    """Eight steps: our layers and Trainer beside PEFT's layers in a plain loop."""
    base = copy.deepcopy(tiny_llama).to(device)
    ours = tiny_llama.to(device)
    torch.manual_seed(0)
    inject_lora(ours, TARGETS, rank=4, alpha=8)
    theirs = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS)).train()
    with torch.no_grad():  # the same start
        for (_, layer), (_, peft) in zip(lora_layers(ours), peft_layers(theirs), strict=True):
            peft.lora_A["default"].weight.copy_(layer.A)
            peft.lora_B["default"].weight.copy_(layer.B)
    rows = [tokens(2, 16, seed) for seed in range(8)]

    records = Trainer(ours, TrainingConfig(lr=2e-2, warmup_steps=2), log_every=0).train(rows)

    losses = losses_by_hand(theirs, rows, lr=2e-2, warmup_steps=2)
    # float32 rounding, fed back through eight updates
    assert [record.loss for record in records] == pytest.approx(losses, rel=1e-4)
    assert losses[0] != pytest.approx(losses[-1], rel=1e-4), "nothing was learnt that could differ"
    save_adapter(ours, tmp_path)  # from the device


def peft_layers(model):
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bits_are_bitsandbytes(device, kind):
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).to(device)
    ours = quantize_4bit(weight, kind, 64, False)
    packed, state = bitsandbytes.functional.quantize_4bit(weight, blocksize=64, quant_type=kind)
    assert torch.equal(ours.absmax, state.absmax)
    # A number half way between two levels may go either way: one byte in a thousand.
    assert (ours.packed != packed.flatten()).float().mean() <= 1e-3
    assert (ours.dequantize() - weight).abs().mean() < 0.1
