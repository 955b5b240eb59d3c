"""Memory measured beside the calculator's prediction: bases in several precisions, and training peaks.

Each case has a process of its own, since a process has one peak, with one thread. The number is the growth of its
resident memory, the pages of mapped files included, over what it was with all libraries loaded and a training step of
a tiny model done. For the comparison, glibc gives every block of 64 KB back as soon as it is freed; how much the
allocator holds back in a run as it is comes from a second process (`as_run`).
"""

import gc
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from course_lib.finetuning.memory import MemorySettings, estimate_memory
from course_lib.finetuning.model import known_shape
from course_lib.training import Trainer, TrainingConfig
from course_lib.training.memory import current_memory, peak_memory, reset_process_peak, return_blocks_from

BASES = ("float32", "bfloat16", "int8", "nf4", "nf4-double")
MODES = ("full", "lora", "qlora")
TARGETS, RANK = ("q_proj", "v_proj"), 8
SMALL_BLOCK = 2**16
STEPS = 2  # AdamW's moments are there in the second one
CPU = torch.device("cpu")
WEIGHTS = ("weights", "4-bit weights", "block constants", "other weights")  # the parts of a model that nothing trains


@dataclass(frozen=True)
class Case:
    """One measurement: a base that is loaded, or training steps on it."""

    model: str
    base: str
    mode: str = "inference"
    batch_size: int = 4
    seq_len: int = 64
    autocast: str | None = None
    gradient_checkpointing: bool = False
    as_run: bool = False


def bench_memory(
    model: str,
    batch_size: int,
    seq_len: int,
    dtype: str = "float32",
    autocast: str | None = None,
    gradient_checkpointing: bool = False,
    bases: tuple[str, ...] = BASES,
    modes: tuple[str, ...] = MODES,
) -> dict[str, float]:
    """Measure every case and predict it.

    Args:
        model: a Llama by name or folder, whose layers include q_proj and v_proj.
        batch_size: rows of the training steps.
        seq_len: tokens of a row.
        dtype: "float32" or "bfloat16", of the base in training.
        autocast: the dtype of the forward pass where it is another.
        gradient_checkpointing: whether blocks keep only their input.
        bases: some of `BASES`. int8 is bitsandbytes' Linear8bitLt, loaded by transformers, which keeps the float32
            file mapped behind the tensors that stay float32; `as_loaded` counts its pages, and the other number comes
            from after these tensors have been copied.
        modes: some of `MODES`; qlora's base is NF4 with double quantisation.

    Returns:
        Measured and predicted megabytes of each case and their ratio; for training also the peak of a run as it is.
    """
    figures: dict[str, float] = {}
    for base in bases:
        measured = measure(Case(model, base))
        figures |= _row(f"base_{base}", measured["loaded"], predict(Case(model, base)))
        if "as_loaded" in measured:
            figures[f"base_{base}_as_loaded_mb"] = measured["as_loaded"] / 1e6
    for mode in modes:
        base = "nf4-double" if mode == "qlora" else dtype
        case = Case(model, base, mode, batch_size, seq_len, autocast, gradient_checkpointing)
        figures |= _row(f"train_{mode}", measure(case)["peak"], predict(case))
        as_run = measure(Case(**asdict(case) | {"as_run": True}))["peak"]
        figures[f"train_{mode}_as_run_mb"] = as_run / 1e6
    return figures


def _row(name: str, measured: int, predicted: int) -> dict[str, float]:
    return {
        f"{name}_mb": measured / 1e6,
        f"{name}_predicted_mb": predicted / 1e6,
        f"{name}_ratio": predicted / measured,
    }


def predict(case: Case) -> int:
    """The calculator's bytes for a case: its weights, or the total of its training."""
    dtype = case.base if case.base in ("float32", "bfloat16") else "float32"
    double = case.base == "nf4-double"
    shape = known_shape(case.model, dtype).requires_grad_(case.mode == "full")
    if case.mode != "inference":
        adapt(shape, case.mode)
        settings = MemorySettings(
            case.mode,
            case.batch_size,
            case.seq_len,
            dtype,
            case.autocast,
            case.gradient_checkpointing,
            double_quant=double,
        )
        return estimate_memory(shape, settings).total
    mode = "qlora" if case.base.startswith("nf4") else "inference"
    estimate = estimate_memory(shape, MemorySettings(mode, 1, 1, dtype, double_quant=double))
    if case.base == "int8":
        return _int8_bytes(shape)
    return sum(part.bytes for part in estimate.parts if part.name in WEIGHTS)


def _int8_bytes(shape: Any) -> int:
    """A byte for each weight of a linear layer and a float32 for each of its rows; the rest stays float32."""
    layers = [
        module for name, module in shape.named_modules() if isinstance(module, nn.Linear) and "lm_head" not in name
    ]
    quantised = sum(layer.weight.numel() for layer in layers)
    rows = sum(layer.out_features for layer in layers)
    return quantised + 4 * rows + 4 * (sum(p.numel() for p in shape.parameters()) - quantised)


def adapt(model: nn.Module, mode: str) -> nn.Module:
    """Choose the trained parameters of a model, in place: all weights, or rank 8 on q_proj and v_proj.

    Args:
        model: the base.
        mode: "full" trains all weights; any other mode trains an adapter.

    Returns:
        The same model.
    """
    from course_lib.adapters import inject_lora

    if mode == "full":
        return model.requires_grad_(True)
    inject_lora(model.requires_grad_(False), list(TARGETS), RANK, 2.0 * RANK)
    return model


def measure(case: Case) -> dict[str, int]:
    """Run a case in a process of its own.

    Returns:
        Bytes of growth: "loaded" with the base, and "peak" over the training steps.
    """
    command = [sys.executable, "-m", "course_lib.benchmarks.memory", json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def run(case: Case) -> dict[str, int]:
    """`measure`, in this process."""
    torch.set_num_threads(1)
    _warm_up(case.base)
    if not case.as_run:  # after the tiny model's Trainer, which has chosen its own limit
        return_blocks_from(SMALL_BLOCK)
    before = current_memory(CPU)
    model = _load(case.model, case.base)
    sizes = {"loaded": current_memory(CPU) - before}
    if case.base == "int8":
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    parameter.data = parameter.data.clone()
        gc.collect()
        sizes = {"loaded": current_memory(CPU) - before, "as_loaded": sizes["loaded"]}
    reset_process_peak()  # loading may have taken more than what is measured here
    if case.mode != "inference":
        adapt(model, case.mode)
        about: dict[str, Any] = {"autocast": case.autocast, "gradient_checkpointing": case.gradient_checkpointing}
        config = TrainingConfig(lr=1e-4, schedule="constant", **about)
        trainer = Trainer(model.train(), config, log_every=0)
        tokens = torch.randint(0, model.config.vocab_size, (case.batch_size, case.seq_len))
        for number in range(STEPS):
            trainer.step(number, STEPS, [tokens])
    return sizes | {"peak": peak_memory(CPU) - before}


def _warm_up(base: str) -> None:
    """Load a tiny model in the same way and take a training step, so that every library is in memory afterwards."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).save_pretrained(folder)
        tiny = _load(folder, base)
    if base != "int8":
        adapt(tiny, "lora")
        Trainer(tiny.train(), TrainingConfig(lr=1e-4), log_every=0).train([torch.randint(0, 64, (2, 8))] * 2)
    del tiny
    gc.collect()


def _load(name: str, base: str) -> Any:
    """The model in memory, each page of it touched: a file that is only mapped has not been read."""
    from course_lib.models.pretrained import load_model

    if base.startswith("nf4"):
        from course_lib.quantization import load_quantized

        model = load_quantized(name, double_quant=base == "nf4-double")
    elif base == "int8":
        from transformers import BitsAndBytesConfig

        config = BitsAndBytesConfig(load_in_8bit=True)
        model = load_model(name, quantization_config=config, device_map={"": "cpu"})
    else:
        model = load_model(name, base)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.view(-1)[:: 4096 // tensor.element_size()].sum()  # one number of each page
    gc.collect()
    return model


if __name__ == "__main__":
    print(json.dumps(run(Case(**json.loads(sys.argv[1])))))
