"""Adapter files in PEFT's layout: `adapter_model.safetensors` and `adapter_config.json`.

PEFT loads what we save and we load what PEFT saves (tests/parity/test_lora.py). An adapter holds only A and B: a
few parts in a thousand of its base.
"""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from course_lib.adapters.lora import inject_lora, lora_layers
from course_lib.errors import CourseError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def save_adapter(model: nn.Module, directory: Path | str, base_name: str | None = None) -> Path:
    """Write the model's LoRA matrices to `directory`, each file whole or not at all. Returns the weights' path."""
    layers = dict(lora_layers(model))
    if not layers:
        raise CourseError("This model has no LoRA layers to save: call inject_lora first.")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    first = next(iter(layers.values()))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": first.rank,
        "lora_alpha": first.alpha,
        "lora_dropout": first.dropout.p,
        "target_modules": sorted({name.split(".")[-1] for name in layers}),
        "bias": "none",
        "inference_mode": True,
    }
    save_file(_state(layers), directory / f"{WEIGHTS}.tmp", metadata={"format": "pt"})
    (directory / f"{CONFIG}.tmp").write_text(json.dumps(config, indent=2))
    for name in (WEIGHTS, CONFIG):
        os.replace(directory / f"{name}.tmp", directory / name)
    return directory / WEIGHTS


def load_adapter(model: nn.Module, directory: Path | str) -> list[str]:
    """Inject the adapter saved in `directory` (by us or by PEFT) into `model`, or refill one injected before.

    Returns the names of the layers it changes. Raises CourseError naming the first tensor that does not fit.
    """
    directory = Path(directory)
    if missing := [name for name in (WEIGHTS, CONFIG) if not (directory / name).is_file()]:
        raise CourseError(f"{directory} is no adapter: it holds no {' and no '.join(missing)}.")
    config = json.loads((directory / CONFIG).read_text())
    if config.get("peft_type") != "LORA":
        raise CourseError(f"{directory} holds a {config.get('peft_type')} adapter; only LORA is read here.")
    saved = load_file(directory / WEIGHTS)

    if not any(lora_layers(model)):
        inject_lora(model, config["target_modules"], rank=config["r"], alpha=config["lora_alpha"])
    wanted = _state(dict(lora_layers(model)))
    for name in wanted.keys() | saved.keys():
        ours, theirs = (tuple(s[name].shape) if name in s else "absent" for s in (wanted, saved))
        if ours != theirs:
            raise CourseError(f"{directory} is not for this model: {name} is {theirs} there and {ours} here.")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(saved[name])
    for _, layer in lora_layers(model):
        layer.alpha, layer.scaling = config["lora_alpha"], config["lora_alpha"] / layer.rank
    return [name for name, _ in lora_layers(model)]


def _state(layers: dict) -> dict[str, torch.Tensor]:
    """A and B under the names that PEFT gives them; the tensors are the model's own, not copies."""
    return {
        f"base_model.model.{name}.lora_{which}.weight": getattr(layer, which).detach()
        for name, layer in layers.items()
        for which in ("A", "B")
    }
