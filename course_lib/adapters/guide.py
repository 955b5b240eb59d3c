"""LoRA by the names of many guides: wrap, train, save the small file, load it again, merge.

    apply_lora_to_model(model, rank=8)
    optimizer = torch.optim.AdamW(get_lora_parameters(model), lr=3e-4)
    ...
    save_lora_weights(model, "lora_final.pt")
    load_lora_weights(model, "lora_final.pt")
    merge_all_lora_weights(model)

The code is that of `lora`, `merge` and `files`; here are only the names, and a file that is a PyTorch archive instead
of safetensors. Such a file is read with ``weights_only=True``: it may hold tensors, numbers and text, and no code runs.
Its layers have the names that transformers gives them, so that a file of a transformers model fits our decoder too.
"""

import os
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from course_lib.adapters.files import CONFIG, PREFIX, WEIGHTS, base_of, load_adapter
from course_lib.adapters.layers import refuse_merged
from course_lib.adapters.lora import LoRALinear, LowRank, inject_lora, lora_layers, lora_parameters, lora_scaling
from course_lib.adapters.merge import MergeReport, merge, unload
from course_lib.errors import CourseError, first_line
from course_lib.files import apply_umask, write_json
from course_lib.models.decoder import Decoder
from course_lib.models.folder import GUIDE_ADAPTER
from course_lib.models.huggingface import name_here, name_in_file
from course_lib.models.linear_layers import layer_sizes, linear_layers
from course_lib.suggestions import similar_paths

LoRALayer = LowRank
LinearWithLoRA = LoRALinear
FORMAT = "course-lora-1"


def apply_lora_to_model(
    model: nn.Module,
    rank: int = 8,
    alpha: float = 16.0,
    target_modules: Sequence[str] | None = None,
    *,
    lora_dropout: float = 0.0,
    use_rslora: bool = False,
) -> nn.Module:
    """Freeze `model` and wrap its attention projections with LoRA, in place; prints a line for each.

    Args:
        model: a transformers model or our decoder.
        rank: of the adapters.
        alpha: the change is scaled by alpha / rank.
        target_modules: ends of layers' names; by default c_attn for GPT-2, else q_proj and v_proj.
        lora_dropout: the share of the adapters' inputs that training drops.
        use_rslora: scale by alpha / sqrt(rank) instead.

    Returns:
        The model.

    Raises:
        CourseError: a target matches no linear layer, the rank is impossible for one, or the model has LoRA already.
    """
    if target_modules is None:
        target_modules = default_targets(model)
    inject_lora(model, target_modules, rank, alpha, lora_dropout, use_rslora)
    for name, layer in lora_layers(model):
        print(f"Applied LoRA to {name}: +{layer.A.numel() + layer.B.numel():,} trainable params")
    return model


def default_targets(model: nn.Module) -> tuple[str, ...]:
    """c_attn for GPT-2, whose one layer makes queries, keys and values; q_proj and v_proj for the Llama family."""
    config: Any = model.config
    return ("c_attn",) if config.model_type == "gpt2" else ("q_proj", "v_proj")


def get_lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What the optimiser is given: A and B of every wrapped layer."""
    return lora_parameters(model)


def save_lora_weights(model: nn.Module, path: Path | str) -> Path:
    """Write the active LoRA adapter alone to a file, whole or not at all.

    Args:
        model: a model with a LoRA adapter.
        path: the file (.pt); folders above it are made.

    Returns:
        The path.

    Raises:
        CourseError: the model has no LoRA adapter.
    """
    layers = dict(lora_layers(model))
    if not layers:
        raise CourseError("This model has no LoRA adapter to save. Call apply_lora_to_model first.")
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():
        outside = _in_file(model, name)  # our GPT-2 calls its layers otherwise than transformers does
        tensors |= {f"{outside}.A": layer.A.detach().cpu(), f"{outside}.B": layer.B.detach().cpu()}
    adapter = next(iter(layers.values())).current  # all layers of an adapter have one rank and one alpha
    about = {"format": FORMAT, "rank": adapter.rank, "alpha": adapter.alpha}
    about |= {"use_rslora": adapter.use_rslora, "base": base_of(model)}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside its place and then renamed: a file that is there is whole.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    torch.save(about | {"tensors": tensors}, temporary)
    os.replace(temporary, path)
    return path


def load_lora_weights(model: nn.Module, path: Path | str) -> nn.Module:
    """Read an adapter into the one on `model`; a model without an adapter is wrapped first.

    Args:
        model: a transformers model or our decoder.
        path: a file of `save_lora_weights`, or the folder of an adapter (a run of `course train`, or PEFT's).
            `lora_final.pt` in such a folder stands for the folder's adapter.

    Returns:
        The model.

    Raises:
        CourseError: the file is damaged or holds something else, or the adapter is of another model or shape. Nothing
            is changed then.
    """
    path = Path(path)
    if path.name == GUIDE_ADAPTER and not path.exists() and (path.parent / CONFIG).is_file():
        path = path.parent
    if path.is_dir():
        load_adapter(model, path)
        return model
    saved = read_lora_archive(path)
    rank, alpha, rslora = saved["rank"], saved["alpha"], saved["use_rslora"]
    tensors: dict[str, torch.Tensor] = {}  # by our names: "LAYER.A" and "LAYER.B"
    for name, tensor in saved["tensors"].items():
        layer_name, _, matrix = name.rpartition(".")
        tensors[f"{_here(model, layer_name)}.{matrix}"] = tensor
    names = sorted({name.rpartition(".")[0] for name in tensors})

    # Everything is checked before anything is changed.
    refuse_merged(model)
    present = dict(lora_layers(model))
    linear = linear_layers(model)
    if missing := [name for name in names if name not in linear]:
        raise CourseError(
            f"{path} is not for this model, which has no layer {missing[0]}. Load the base that it was trained on."
        )
    layers: Mapping[str, Any] = present or {name: linear[name] for name in names}
    wanted: dict[str, tuple[int, int]] = {}
    for name, layer in layers.items():
        out_features, in_features = layer_sizes(layer)
        r = layer.rank if present else rank
        wanted |= {f"{name}.A": (r, in_features), f"{name}.B": (out_features, r)}
    for name in sorted(wanted.keys() | tensors.keys()):
        here, there = wanted.get(name, "absent"), tuple(tensors[name].shape) if name in tensors else "absent"
        if here != there:
            raise CourseError(
                f"{path} is not for this model: {name} is {there} in the file and {here} here. Load the base that it "
                "was trained on."
            )

    if not present:
        inject_lora(model, names, rank, alpha, use_rslora=rslora)
    with torch.no_grad():
        for name, lora in lora_layers(model):
            lora.A.copy_(tensors[f"{name}.A"])
            lora.B.copy_(tensors[f"{name}.B"])
            lora.current.alpha, lora.current.use_rslora = alpha, rslora
            lora.scaling = lora_scaling(alpha, rank, rslora)  # in training it was scaled so
    return model


def merge_all_lora_weights(model: nn.Module) -> MergeReport:
    """Add every adapter to its base's weight and take the wrappers off, in place: what is left is a plain model.

    It computes without any overhead, and `model.state_dict()` is that of a model without adapters. This cannot be
    undone; `merge` can, with `unmerge`.
    """
    report = merge(model)  # W becomes W + scaling * B A
    unload(model)  # each wrapper makes way for its base
    return report


def archive_as_adapter(path: Path | str, folder: Path) -> Path:
    """Write the adapter of a `save_lora_weights` file in PEFT's layout.

    Args:
        path: the file.
        folder: for the adapter; it is made where it is absent.

    Returns:
        The folder.

    Raises:
        CourseError: the file is damaged or holds something else.
    """
    saved = read_lora_archive(path)
    names: set[str] = set()
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in saved["tensors"].items():
        layer_name, _, matrix = name.rpartition(".")  # "LAYER.A" and "LAYER.B"
        names.add(layer_name)
        tensors[f"{PREFIX}{layer_name}.lora_{matrix}.weight"] = tensor
    config = {
        "peft_type": "LORA",
        "r": saved["rank"],
        "lora_alpha": saved["alpha"],
        "lora_dropout": 0.0,
        "use_rslora": saved["use_rslora"],
        # GPT-2's layers store their weight as (in, out). PEFT has to know, and the file does not say.
        "fan_in_fan_out": any(name.endswith(("c_attn", "c_proj", "c_fc")) for name in names),
        "bias": "none",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": saved["base"],
        "target_modules": sorted(names),
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS)
    apply_umask(folder / WEIGHTS)
    write_json(folder / CONFIG, config)
    return folder


def _in_file(model: nn.Module, name: str) -> str:
    return name_in_file(name, model.config.model_type) if isinstance(model, Decoder) else name


def _here(model: nn.Module, name: str) -> str:
    return name_here(name, model.config.model_type) if isinstance(model, Decoder) else name


def read_lora_archive(path: Path | str) -> dict:
    """The content of a `save_lora_weights` file. It raises CourseError where the file holds something else."""
    saved = read_archive(path)
    if saved.get("format") != FORMAT:
        raise CourseError(f"{path} holds no LoRA weights of save_lora_weights. A model's weights go to --weights.")
    tensors = saved.get("tensors")
    if not isinstance(tensors, dict) or not tensors or not all(name.endswith((".A", ".B")) for name in tensors):
        raise CourseError(f"{path} is damaged: it holds no tensors A and B. Save it again with save_lora_weights.")
    if not isinstance(saved.get("rank"), int) or not isinstance(saved.get("alpha"), int | float):
        raise CourseError(
            f"{path} is damaged: it does not say its rank and its alpha. Save it again with save_lora_weights."
        )
    return {"base": None, "use_rslora": False} | saved


def read_archive(path: Path | str) -> dict:
    """A dictionary that `torch.save` wrote, read without running any code in it.

    Raises:
        CourseError: there is no such file, or it holds more than tensors, numbers and text.
    """
    if not Path(path).is_file():
        folder = Path(path).parent
        if (folder / CONFIG).is_file():
            raise CourseError(f"There is no file {path}. The adapter there is in PEFT's layout: name {folder}.")
        raise CourseError(f"There is no file {path}.{similar_paths(Path(path))}")
    try:
        # Mapped, where the format allows it: only what is used is read.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error).upper():  # so torch names what it would have had to import
            raise CourseError(f"{path} is damaged, or torch.save did not write it. Copy or save it again.") from error
        raise CourseError(
            f"{path} holds more than tensors, numbers and text, and reading that could run code. Save the weights "
            "alone: torch.save(model.state_dict(), FILE)."
        ) from error
    except OSError as error:
        raise CourseError(f"{path} could not be read: {first_line(error)}") from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CourseError(f"{path} is damaged, or torch.save did not write it. Copy or save it again.") from error
    if not isinstance(content, dict):
        raise CourseError(
            f"{path} holds a {type(content).__name__}, not a dictionary of weights. Save them by "
            "torch.save(model.state_dict(), FILE)."
        )
    return content
