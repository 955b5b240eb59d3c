"""Evaluate, train, merge, unmerge, save and reload, in any order: the numbers of never having evaluated.

bitsandbytes' layer fails this on processors with AVX512-BF16 (see tests/models/test_packed.py).
"""

import copy
import random
import tempfile

import pytest
import torch
from safetensors.torch import load, save
from torch.nn import functional as F

from course_lib.adapters import inject_lora, lora_parameters, merge, unload, unmerge
from course_lib.quantization import Linear4bit, load_quantized, quantize_model, save_quantized

IDS = torch.randint(0, 97, (2, 16), generator=torch.Generator().manual_seed(0))


def evaluate(model):
    model.eval()
    with torch.no_grad():
        model(IDS)


def generate(model):
    model.eval().generate(IDS[:, :4], max_new_tokens=3, do_sample=False)


def merge_and_back(model):
    merge(model)
    evaluate(model)
    unmerge(model)


def merge_a_copy(model):
    merge(copy.deepcopy(model))


def save_and_reload(model):
    model.load_state_dict(load(save({name: t.contiguous() for name, t in model.state_dict().items()})))


def save_the_base(model):
    """To a folder and back, without the adapter: the codes that come back are those that went."""
    base = unload(copy.deepcopy(model))
    layers = {name: layer for name, layer in base.named_modules() if isinstance(layer, Linear4bit)}
    double_quant = next(iter(layers.values())).quantized.double_quant
    with tempfile.TemporaryDirectory() as folder:
        save_quantized(base, folder)
        again = load_quantized(folder, double_quant=double_quant)
    for name, layer in layers.items():
        assert torch.equal(again.get_submodule(name).packed, layer.packed)
        assert torch.equal(again.get_submodule(name).weight, layer.weight)


def evaluate_in_bfloat16(model):
    with torch.autocast("cpu", torch.bfloat16):
        evaluate(model)


def look_at_the_weights(model):
    model.state_dict()
    _ = [module.weight for module in model.modules() if hasattr(module, "packed")]


def move_and_cast(model):
    """To another dtype and back, without the parameters, which a cast does round."""
    for module in model.modules():
        if hasattr(module, "packed"):
            module.to(torch.bfloat16).to(torch.float32)


HARMLESS = [evaluate, evaluate_in_bfloat16, generate, merge_and_back, merge_a_copy, save_and_reload, save_the_base]
HARMLESS += [look_at_the_weights, move_and_cast]


def step(model):
    """One step of plain gradient descent. Returns the loss and the adapter's gradients."""
    model.train()
    parameters = lora_parameters(model)
    loss = F.cross_entropy(model(IDS).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= gradient
    return [loss.detach(), *gradients]


def base(tiny_llama, double_quant):
    model = quantize_model(copy.deepcopy(tiny_llama), double_quant=double_quant)
    torch.manual_seed(1)
    inject_lora(model, ["q_proj", "v_proj", "down_proj"], rank=4)
    return model


@pytest.mark.parametrize("seed", range(6))
def test_any_order_gives_the_same_numbers(tiny_llama, seed):
    """Four training steps with random harmless acts before, between and after, against the four steps alone."""
    draw = random.Random(seed)
    double_quant = seed % 2 == 1
    alone, disturbed = (base(tiny_llama, double_quant) for _ in range(2))
    stored = {name: buffer.clone() for name, buffer in alone.named_buffers()}
    for _ in range(4):
        for act in draw.choices(HARMLESS, k=draw.randint(1, 4)):
            act(disturbed)
        for ours, undisturbed in zip(step(disturbed), step(alone), strict=True):
            assert torch.equal(ours, undisturbed)
    for act in draw.sample(HARMLESS, k=len(HARMLESS)):
        act(disturbed)
    for name, buffer in disturbed.named_buffers():
        assert torch.equal(buffer, stored[name]), name
    finals = []
    for model in (alone, disturbed):
        merge(model)
        model.eval()
        finals.append(model(IDS).logits.detach())
    assert torch.equal(*finals)
