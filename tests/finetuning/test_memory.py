"""The memory estimate against the tensors that torch keeps and the peak of a process."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from course_lib.finetuning.memory import block_elements, estimate_memory
from course_lib.finetuning.model import adapt, shape_of
from course_lib.finetuning.settings import complete
from course_lib.models.config import CONFIGS
from course_lib.training import Trainer, TrainingConfig, next_token_loss


@pytest.mark.parametrize("shape", ["modern-1m", "tiny-gpt", "gpt2"])
@pytest.mark.parametrize("mode", ["full", "lora", "butterfly"])
def test_activations_by_formula_are_those_that_torch_keeps(shape, mode):
    """Every tensor that autograd saves is counted once; the formula is within 15 % of their bytes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from course_lib.models.huggingface import config_settings

    config = replace(CONFIGS[shape], vocab_size=64, num_hidden_layers=4, max_position_embeddings=64)
    given = config_settings(config) | {"bos_token_id": None, "eos_token_id": None}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(given.pop("model_type"), **given))
    targets = ("c_attn",) if shape != "modern-1m" else ("q_proj", "v_proj")
    adapt(model, replace(complete({"mode": mode}), target_modules=targets)).train()
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def count(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    tokens = torch.randint(0, 64, (4, 48))
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        next_token_loss(model(tokens).logits, tokens)
    measured = sum(size for size, _ in kept.values()) - 4 * 47 * 64 * 4  # without the log-softmax
    formula = 4 * tokens.numel() * 4 * block_elements(model, mode)
    assert formula == pytest.approx(measured, rel=0.15)


PEAK = """
import sys, torch
from dataclasses import replace
from transformers import AutoConfig, AutoModelForCausalLM
from course_lib.finetuning.model import adapt
from course_lib.finetuning.settings import complete
from course_lib.finetuning.memory import estimate_memory
from course_lib.models.config import CONFIGS
from course_lib.models.huggingface import config_settings
from course_lib.training import Trainer, TrainingConfig
from course_lib.training.memory import peak_memory

torch.set_num_threads(1)
mode = sys.argv[1]
def build(config):
    given = config_settings(config) | {"bos_token_id": None, "eos_token_id": None}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(given.pop("model_type"), **given))
    return adapt(model, replace(complete({"mode": mode}), target_modules=("q_proj", "v_proj")))
def step(model, rows, time):
    tokens = torch.randint(0, 64, (rows, time))
    Trainer(model, TrainingConfig(lr=1e-4), log_every=0).train([tokens, tokens])
cpu = torch.device("cpu")
small = replace(CONFIGS["modern-1m"], vocab_size=64, num_hidden_layers=1)
step(build(small), 2, 8)
before = peak_memory(cpu)
model = build(CONFIGS["modern-15m"])
step(model, 8, 128)
estimate = estimate_memory(model, tokens=8 * 128, dtype="float32", mode=mode)
print((peak_memory(cpu) - before) / estimate.total)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak counts what another allocator holds back")
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_the_estimate_is_within_a_quarter_of_a_process(mode):
    """Measured with every large tensor given back to the system as soon as it is freed."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PEAK, mode]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    assert 0.8 < float(done.stdout) < 1.25


def shape(settings, dtype):
    """The settings' model, a vocabulary of 64, without memory for its weights."""
    return shape_of(replace(settings, dtype=dtype), type("Tokenizer", (), {"vocab_size": 64})())


def test_checkpointed_and_half_precision_estimates_are_smaller():
    settings = complete({"model": "modern-5m", "mode": "full"})
    plain, recomputed, half = (
        estimate_memory(shape(settings, dtype), tokens=512, dtype=dtype, mode="full", checkpoint=checkpoint)
        for dtype, checkpoint in [("float32", False), ("float32", True), ("bfloat16", False)]
    )
    assert recomputed.activations < plain.activations / 3
    assert half.activations == plain.activations / 2
    count = sum(p.numel() for p in shape(settings, "float32").parameters())
    assert (plain.weights, plain.gradients, plain.masters, plain.moments) == (4 * count, 4 * count, 0, 8 * count)
    # 16-bit weights and gradients, but float32 masters and moments: 16 bytes a weight again.
    assert (half.weights, half.gradients, half.masters, half.moments) == (2 * count, 2 * count, 4 * count, 8 * count)


def test_adapters_on_a_bfloat16_base_have_no_masters():
    """They are float32 themselves: 4 + 4 + 8 bytes."""
    settings = complete({"model": "modern-5m", "mode": "lora"})
    model = shape(settings, "bfloat16")
    base = sum(p.numel() for p in model.parameters())
    adapt(model, replace(settings, target_modules=("q_proj",)))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    estimate = estimate_memory(model, tokens=8, dtype="bfloat16", mode="lora")
    assert (estimate.weights, estimate.masters) == (2 * base + 4 * trained, 0)
    assert (estimate.gradients, estimate.moments) == (4 * trained, 8 * trained)


def test_the_estimate_of_bfloat16_training_is_what_the_trainer_keeps(tiny_llama):
    """Weights, gradients, masters and moments, tensor by tensor."""
    model = tiny_llama.bfloat16()
    trainer = Trainer(model, TrainingConfig(lr=1e-3), log_every=0)
    trainer.train([torch.arange(16).reshape(1, 16)])
    states = trainer.optimizer.state.values()
    kept = sum(value.nbytes for state in states for name, value in state.items() if name != "step")
    estimate = estimate_memory(model, tokens=16, dtype="bfloat16", mode="full")
    assert kept == estimate.masters + estimate.moments
    assert sum(p.nbytes for p in model.parameters()) == estimate.weights == estimate.gradients
