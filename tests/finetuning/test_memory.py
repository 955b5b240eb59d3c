"""The memory estimate against the tensors that torch keeps and the peak of a process."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from course_lib.finetuning.memory import (
    AT_LAST_GRADIENT,
    AT_LOSS,
    MemorySettings,
    block_elements,
    estimate_memory,
    quantised_bytes,
)
from course_lib.finetuning.model import adapt, known_shape, shape_of, transformers_config, without_weights
from course_lib.finetuning.settings import complete
from course_lib.models.config import CONFIGS, DecoderConfig, parameter_count
from course_lib.models.published import PUBLISHED
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
from course_lib.finetuning.memory import MemorySettings, estimate_memory
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
estimate = estimate_memory(model, MemorySettings(mode, 8, 128))
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
        estimate_memory(
            shape(settings, dtype), MemorySettings("full", 4, 128, dtype, gradient_checkpointing=checkpoint)
        )
        for dtype, checkpoint in [("float32", False), ("float32", True), ("bfloat16", False)]
    )
    assert recomputed["activations"] < plain["activations"] / 3
    assert plain["activations"] / 2 < half["activations"] < 0.6 * plain["activations"]  # norms remember float32
    count = sum(p.numel() for p in shape(settings, "float32").parameters())
    assert (plain["weights"], plain["gradients"], plain["optimiser state"]) == (4 * count, 4 * count, 8 * count)
    # bfloat16: weights and gradients of 2 bytes, a float32 master and two float32 moments.
    assert (half["weights"], half["gradients"]) == (2 * count, 2 * count)
    assert half["master weights"] + half["optimiser state"] == 12 * count
    assert plain["master weights"] == 0


def test_adapters_on_a_bfloat16_base_have_no_masters():
    """They are float32 themselves: 4 + 4 + 8 bytes."""
    settings = complete({"model": "modern-5m", "mode": "lora"})
    model = shape(settings, "bfloat16")
    base = sum(p.numel() for p in model.parameters())
    adapt(model, replace(settings, target_modules=("q_proj",)))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    estimate = estimate_memory(model, MemorySettings("lora", 1, 8, "bfloat16"))
    assert (estimate["weights"], estimate["adapter"], estimate["master weights"]) == (2 * base, 4 * trained, 0)
    assert (estimate["gradients"], estimate["optimiser state"]) == (4 * trained, 8 * trained)


def test_the_estimate_of_bfloat16_training_is_what_the_trainer_keeps(tiny_llama):
    """Weights, gradients, masters and moments, tensor by tensor."""
    model = tiny_llama.bfloat16()
    trainer = Trainer(model, TrainingConfig(lr=1e-3), log_every=0)
    trainer.train([torch.arange(16).reshape(1, 16)])
    states = trainer.optimizer.state.values()
    kept = sum(value.nbytes for state in states for name, value in state.items() if name != "step")
    estimate = estimate_memory(model, MemorySettings("full", 1, 16, "bfloat16"))
    assert kept == estimate["master weights"] + estimate["optimiser state"]
    assert sum(p.nbytes for p in model.parameters()) == estimate["weights"] == estimate["gradients"]


# --- worked arithmetic ---------------------------------------------------------------------------------------------

# Width 8, 2 layers, 2 heads (1 for keys), MLP 16, vocabulary 32, tied: a layer has 8 * 8 + 2 * 8 * 4 + 8 * 8 = 192
# weights of attention, 3 * 8 * 16 = 384 of its MLP and 16 of its norms.
SMALL = DecoderConfig("llama", 32, 8, 2, 2, 64, 16, 1)


def small_shape(mode, targets=("q_proj", "v_proj")):
    model = without_weights(transformers_config(SMALL), "float32", "small")
    return adapt(model, replace(complete({"mode": mode, "rank": 2} if "lora" in mode else {"mode": mode}),
                                target_modules=targets))  # fmt: skip


def test_full_training_by_hand():
    """32 * 8 + 2 * (192 + 384 + 16) + 8 = 1,448 parameters; 3 rows of 5 tokens."""
    estimate = estimate_memory(small_shape("full"), MemorySettings("full", 3, 5))
    assert estimate["weights"] == 4 * 1448
    assert estimate["activations"] == 15 * 2 * 4 * (6 * 8 + 2 * 8 + 2 * 4 + 4 * 16)
    assert estimate["logits"] == 15 * 32 * 4
    assert estimate["largest temporary"] == 3 * 15 * 16 * 4
    state = 4 * 1448 + 8 * 1448 + 3 * 15 * 16 * 4
    table = 32 * 8 * 4
    assert estimate.moments[AT_LAST_GRADIENT] == state + 4 * 1448 + 2 * table
    assert estimate.moments[AT_LOSS] == state + estimate["activations"] + estimate["logits"] + table
    assert estimate.total == max(estimate.moments.values())


def test_qlora_by_hand():
    """1,152 weights in 4 bits, in 14 matrices; 296 others; A and B of q (8 x 8) and v (4 x 8) at rank 2."""
    settings = MemorySettings("qlora", 1, 5, block_size=64, double_quant=True)
    estimate = estimate_memory(small_shape("qlora"), settings)
    assert estimate["4-bit weights"] == 1152 // 2
    # Each matrix: blocks of a byte, one float32 for up to 256 of them, one float32 mean. 2 layers of q, k, v, o
    # (1, 1, 1, 1 blocks) and three MLP matrices of 128 weights (2 blocks each).
    assert estimate["block constants"] == 2 * ((4 * 1 + 3 * 2) + 7 * 8)
    assert estimate["other weights"] == 4 * (32 * 8 + 2 * 16 + 8)
    adapter = 2 * (2 * (8 + 8) + 2 * (4 + 8))
    assert (estimate["adapter"], estimate["gradients"]) == (4 * adapter, 4 * adapter)
    assert estimate["optimiser state"] == 8 * adapter
    # Frozen: 2h + 2q + 2k + 3m, and the one input of q and v.
    assert estimate["activations"] == 5 * 2 * 4 * (2 * 8 + 2 * 8 + 2 * 4 + 3 * 16 + 8)
    assert estimate["largest temporary"] == 4 * 128 + 3 * 5 * 16 * 4
    plain = estimate_memory(small_shape("qlora"), replace(settings, double_quant=False))
    assert plain["block constants"] == 4 * 2 * (4 * 1 + 3 * 2)


def test_inference_by_hand():
    model = without_weights(transformers_config(SMALL), "bfloat16", "small").requires_grad_(False)
    estimate = estimate_memory(model, MemorySettings("inference", 3, 5, "bfloat16"))
    assert estimate["weights"] == 2 * 1448
    assert estimate["KV cache"] == 15 * 2 * 2 * 4 * 2  # tokens, layers, keys and values, width, bytes
    assert estimate["gradients"] == estimate["optimiser state"] == 0


@pytest.mark.parametrize(
    ("optimizer", "bytes"), [("adamw", 8), ("adamw-8bit", 2.03125), ("sgd-momentum", 4), ("sgd", 0)]
)
def test_the_optimisers_state(optimizer, bytes):
    estimate = estimate_memory(small_shape("full"), MemorySettings("full", 1, 4, optimizer=optimizer))
    assert estimate["optimiser state"] == int(1448 * bytes)


def test_bits_of_constants_are_the_papers():
    """QLoRA, section 3: 0.5 bits a parameter, 0.127 with double quantisation; 0.373 saved, 3.03 GB at 65B."""
    count = 64 * 256 * 1000
    (_, plain), (_, nested) = (quantised_bytes(count, 64, double) for double in (False, True))
    assert 8 * plain / count == 0.5
    assert 8 * nested / count == pytest.approx(0.127, abs=1e-4)
    assert 65e9 * (plain - nested) / count / 1e9 == pytest.approx(3.03, abs=0.005)


# --- published figures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("llama-7b", 6_738),
        ("llama-13b", 13_016),
        ("llama-33b", 32_529),
        ("llama-65b", 65_286),
        ("llama-3-8b", 8_030),
        ("llama-3-70b", 70_554),
    ],
)
def test_published_shapes_have_the_published_numbers_of_parameters(name, millions):
    """The models' pages say 6.7B, 13.0B, 32.5B, 65.2B, 8.03B and 70.6B."""
    assert parameter_count(PUBLISHED[name].config) == pytest.approx(1e6 * millions, rel=1e-4)


def _guanaco(name, double_quant=True):
    """QLoRA's own setting: rank 64 on all linear layers, one row of 512 tokens, checkpointing (appendix B and G)."""
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    model = known_shape(name, "bfloat16")
    adapt(model, replace(complete({"mode": "qlora", "rank": 64}), target_modules=targets))
    settings = MemorySettings("qlora", 1, 512, "bfloat16", gradient_checkpointing=True, double_quant=double_quant)
    return estimate_memory(model, settings)


@pytest.mark.parametrize(
    ("name", "gpu", "total", "base"), [("llama-33b", 24, 24.7, 19_302), ("llama-65b", 48, 45.0, 37_074)]
)
def test_qlora_fits_the_gpus_of_the_paper(name, gpu, total, base):
    """33B on one GPU of 24 GB and 65B on one of 48 GB, and the breakdown in the paper's figure of memory.

    The figure's totals are 24.7 and 45.0 GB, its base models 19,302 and 37,074 MB. Our base is 14 and 11 % smaller,
    since the figure has constants of 0.5 bits and what a GPU's allocator adds. Our adapter is twice as large: ours is
    float32, the paper's bfloat16. The figure leaves out logits, attention and the GPU's context. So the totals meet
    within 5 %, partly by chance; paged moments are what makes the rest fit.
    """
    estimate = _guanaco(name)
    assert estimate.total < gpu * 2**30
    assert estimate.total / 2**30 == pytest.approx(total, rel=0.05)
    ours = estimate["4-bit weights"] + estimate["block constants"] + estimate["other weights"]
    assert 0.85 < ours / (base * 2**20) < 1
    without = _guanaco(name, double_quant=False)
    assert (without.total - estimate.total) / estimate["4-bit weights"] == pytest.approx(0.373 / 4, rel=1e-3)


def test_the_figures_adapters_have_a_narrower_mlp_than_llama():
    """The figure's adapters, 877.5 and 1,440 MB of bfloat16, are 18 d r L numbers: an MLP of 7/3 d. LLaMA's is 8/3."""
    for name, mib in (("llama-33b", 877.5), ("llama-65b", 1440)):
        config = PUBLISHED[name].config
        assert 2 * 18 * config.hidden_size * 64 * config.num_hidden_layers / 2**20 == pytest.approx(mib)
        assert _guanaco(name)["adapter"] / 2 / 2**20 == pytest.approx(mib, rel=0.07)


def test_full_training_of_65b_takes_more_than_780_gb():
    """ "Regular 16-bit finetuning of a LLaMA 65B parameter model requires more than 780 GB": 12 bytes for each, all
    in 16 bits but for the moments. With float32 masters, which `course train` has, it is 16."""
    model = known_shape("llama-65b", "bfloat16").requires_grad_(True)
    estimate = estimate_memory(model, MemorySettings("full", 1, 512, "bfloat16"))
    count = parameter_count(PUBLISHED["llama-65b"].config)
    assert estimate["weights"] + estimate["gradients"] + estimate["optimiser state"] == 12 * count > 780e9
    assert estimate.total > 16 * count
