"""LoRA by the names of many guides: wrap, train, save the small file, load it again, merge.

    apply_lora_to_model(model, rank=8)
    optimizer = torch.optim.AdamW(get_lora_parameters(model), lr=3e-4)
    ...
    save_lora_weights(model, "lora_final.pt")
    load_lora_weights(model, "lora_final.pt")
    merge_all_lora_weights(model)

The code is that of `lora`, `merge` and `files`; here are only the names, and a file that is a PyTorch archive instead
of safetensors. Such a file is read with ``weights_only=True``: it may hold tensors, numbers and text, and no code runs.
"""

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from course_lib.adapters.files import CONFIG, PREFIX, WEIGHTS, base_of
from course_lib.adapters.lora import LoRALinear, LowRank, inject_lora, lora_layers, lora_parameters
from course_lib.adapters.merge import MergeReport, merge
from course_lib.errors import CourseError, first_line
from course_lib.files import write_json

LoRALayer = LowRank
LinearWithLoRA = LoRALinear
FORMAT = "course-lora-1"


def apply_lora_to_model(
    model: nn.Module, rank: int = 8, alpha: float = 16.0, target_modules: Sequence[str] | None = None
) -> nn.Module:
    """Freeze `model` and wrap its attention projections with LoRA, in place; prints a line for each.

    Args:
        model: a transformers model or our decoder.
        rank: of the adapters.
        alpha: the change is scaled by alpha / rank.
        target_modules: ends of layers' names; by default c_attn for GPT-2, else q_proj and v_proj.

    Returns:
        The model.
    """
    if target_modules is None:
        target_modules = default_targets(model)
    inject_lora(model, target_modules, rank, alpha)
    for name, layer in lora_layers(model):
        print(f"Applied LoRA to {name}: +{layer.A.numel() + layer.B.numel():,} trainable params")
    return model


def default_targets(model: nn.Module) -> tuple[str, ...]:
    """c_attn for GPT-2, whose one layer makes queries, keys and values; q_proj and v_proj for Llama and its kin."""
    config: Any = model.config
    return ("c_attn",) if config.model_type == "gpt2" else ("q_proj", "v_proj")


def get_lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What the optimiser is given: A and B of every wrapped layer."""
    return lora_parameters(model)


def save_lora_weights(model: nn.Module, path: Path | str) -> Path:
    """Write the adapter alone to the file `path` (.pt), whole or not at all. Returns the path."""
    layers = dict(lora_layers(model))
    if not layers:
        raise CourseError("This model has no LoRA adapter to save. Call apply_lora_to_model first.")
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():
        tensors |= {f"{name}.A": layer.A.detach().cpu(), f"{name}.B": layer.B.detach().cpu()}
    first = next(iter(layers.values()))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    about = {"format": FORMAT, "rank": first.rank, "alpha": first.alpha, "base": base_of(model), "tensors": tensors}
    torch.save(about, temporary)
    os.replace(temporary, path)
    return path


def load_lora_weights(model: nn.Module, path: Path | str) -> nn.Module:
    """Read a file of `save_lora_weights` into the adapter on `model`; a model without one is wrapped first.

    Raises:
        CourseError: the file is damaged or holds something else, or the adapter is of another shape. Nothing is
            changed then.
    """
    saved = read_lora_archive(path)
    tensors, names = saved["tensors"], sorted({name.rpartition(".")[0] for name in saved["tensors"]})
    if not dict(lora_layers(model)):
        inject_lora(model, names, saved["rank"], saved["alpha"])
    ours = {f"{name}.{which}": getattr(layer, which) for name, layer in lora_layers(model) for which in "AB"}
    for name in sorted(ours.keys() | tensors.keys()):
        here, there = (tuple(side[name].shape) if name in side else "absent" for side in (ours, tensors))
        if here != there:
            raise CourseError(f"{path} is not for this model: {name} is {there} in the file and {here} here.")
    with torch.no_grad():
        for name, parameter in ours.items():
            parameter.copy_(tensors[name])
    for _, layer in lora_layers(model):
        layer.alpha, layer.scaling = saved["alpha"], saved["alpha"] / saved["rank"]
    return model


def merge_all_lora_weights(model: nn.Module) -> MergeReport:
    """Add every adapter to its base's weight: the model then computes without any overhead. `unmerge` undoes it."""
    return merge(model)


def archive_as_adapter(path: Path | str, folder: Path) -> Path:
    """Write the adapter of a `save_lora_weights` file in PEFT's layout into `folder`; returns the folder."""
    saved = read_lora_archive(path)
    names = sorted({name.rpartition(".")[0] for name in saved["tensors"]})
    tensors = {f"{PREFIX}{name[:-2]}.lora_{name[-1]}.weight": tensor for name, tensor in saved["tensors"].items()}
    config = {
        "peft_type": "LORA",
        "r": saved["rank"],
        "lora_alpha": saved["alpha"],
        "lora_dropout": 0.0,
        "fan_in_fan_out": any(name.endswith(("c_attn", "c_proj", "c_fc")) for name in names),
        "bias": "none",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": saved["base"],
        "target_modules": names,
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS)
    write_json(folder / CONFIG, config)
    return folder


def read_lora_archive(path: Path | str) -> dict:
    """The content of a `save_lora_weights` file. CourseError where it holds something else."""
    saved = read_archive(path)
    if saved.get("format") != FORMAT:
        raise CourseError(f"{path} holds no LoRA weights of save_lora_weights. A model's weights go to --weights.")
    return saved


def read_archive(path: Path | str) -> dict:
    """A dictionary that `torch.save` wrote, read without running any code in it.

    Raises:
        CourseError: there is no such file, or it holds more than tensors, numbers and text.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise CourseError(f"{path} could not be read as PyTorch weights: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise CourseError(f"{path} holds a {type(content).__name__} and no dictionary of weights.")
    return content
