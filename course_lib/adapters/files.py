"""Adapter files in PEFT's layout: `adapter_model.safetensors` and `adapter_config.json`.

PEFT loads the LoRA adapters we save and we load those it saves (tests/parity/test_lora.py, test_adapters.py); a
butterfly's file has the same two parts, which only this course reads. An adapter's file holds only what was trained:
a few thousandths of its base.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from course_lib.adapters.butterfly import butterfly_layers, butterfly_parameter_count, inject_butterfly
from course_lib.adapters.layers import refuse_merged
from course_lib.adapters.lora import adapter_names, inject_lora, lora_layers, lora_scaling, set_adapter
from course_lib.adapters.peft_settings import (
    DEFAULTS,
    MERGED,
    as_plain_lora,
    check_kinds,
    check_settings,
    initialisation,
    is_relative,
    is_selected,
    say_unknown,
    what_is_there,
)
from course_lib.adapters.trained_on import quantization_record, refuse_other_quantization
from course_lib.errors import CourseError
from course_lib.files import apply_umask
from course_lib.models.decoder import Decoder
from course_lib.models.folder import open_weights, plain_name
from course_lib.models.huggingface import name_here, name_in_file
from course_lib.models.linear_layers import layer_sizes, linear_layers, matching_layers

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."


def save_adapter(
    model: nn.Module, directory: Path | str, base_name: str | None = None, name: str | None = None
) -> Path:
    """Write the model's adapter to `directory`, each file whole or not at all.

    Args:
        model: a model with an adapter.
        directory: the folder; it is made where it is absent.
        base_name: the base's name in the file (default: the name the model was loaded by).
        name: which LoRA adapter (default: the active one).

    Returns:
        The path of the weights.

    Raises:
        CourseError: there is no such adapter.
    """
    if name is not None and name not in adapter_names(model):
        raise CourseError(f"This model has no LoRA adapter named {name!r}; it has: {adapter_names(model)}.")
    layers: Mapping[str, Any] = dict(butterfly_layers(model))
    if layers:  # all layers of an adapter have the same settings: the first one tells them
        first = next(iter(layers.values())).rotation
        config = {"peft_type": "BUTTERFLY", "stages": first.stages, "block_size": first.block_size}
    elif layers := dict(lora_layers(model, name)):
        config = {"peft_type": "LORA"} | _lora_config(model, layers, name)
    else:
        raise CourseError("This model has no adapter to save: call inject_lora or inject_butterfly first.")
    config |= {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name or base_of(model),
        "target_modules": _targets(model, layers),
        "inference_mode": True,
    }
    # Both files are written beside their places first: a disk that is full leaves the old adapter as it was.
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt"} | quantization_record(_linear_layers_of(model))
    save_file(_state(model, layers, name), directory / f"{WEIGHTS}.tmp", metadata=metadata)
    apply_umask(directory / f"{WEIGHTS}.tmp")
    (directory / f"{CONFIG}.tmp").write_text(json.dumps(config, indent=2))
    for file in (WEIGHTS, CONFIG):
        os.replace(directory / f"{file}.tmp", directory / file)
    return directory / WEIGHTS


def base_of(model: nn.Module) -> str | None:
    """The name or folder that the model was loaded by, where it knows."""
    return getattr(getattr(model, "config", None), "_name_or_path", None) or None


def _lora_config(model: nn.Module, layers: Mapping, name: str | None) -> dict:
    first = next(iter(layers.values()))
    adapter = first.adapters[name or first.active]
    return {
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout.p,
        "use_rslora": adapter.use_rslora,
        "fan_in_fan_out": _is_transposed(model, layers),
        "bias": "none",
    }


def _targets(model: nn.Module, layers: Mapping) -> list[str]:
    """The last parts of the layers' names where they mean these layers and no others, and full names otherwise."""
    ends = sorted({name.split(".")[-1] for name in layers})  # "model.layers.0.self_attn.q_proj" -> "q_proj"
    if matching_layers(model, ends).keys() == layers.keys():
        return ends
    return sorted(_outside(model, name) for name in layers)


def load_adapter(model: nn.Module, directory: Path | str, name: str = "default") -> list[str]:
    """Put the adapter saved in `directory` (by us or by PEFT) on `model` and make it the active one.

    An adapter whose initialisation changed the base (PiSSA, OLoRA) becomes a plain one of twice the rank, relative to
    the base as it is (see `peft_settings`).

    Args:
        model: the base: a transformers model or our decoder, bare or with adapters.
        directory: holds adapter_model.safetensors and adapter_config.json.
        name: the LoRA adapter's name here; where the model has one of that name, it is refilled.

    Returns:
        The names of the layers that it changes.

    Raises:
        CourseError: a setting is not read here, or a tensor does not fit. The error names it, and the model is as it
            was.
    """
    directory = Path(directory)
    weights, config = weights_file(directory), readable_config(directory)
    saved = _read(weights)
    refuse_merged(model)
    if config["peft_type"] == "LORA":
        say_unknown(directory, config)
        return _load_lora(model, directory, DEFAULTS | config, saved, name)
    return _load_butterfly(model, directory, config, saved)


def readable_config(folder: Path | str) -> dict:
    """The settings of an adapter that is read here. Quick: a base that takes long can be loaded after it.

    It raises CourseError where the file is absent or damaged, or names a method or setting that is not read here.
    """
    config = adapter_config(folder)
    kind = config.get("peft_type")
    if kind is None:
        raise CourseError(
            f"{Path(folder) / CONFIG} does not say which method the adapter has: it lacks peft_type. Copy the adapter "
            "again, or add it."
        )
    if kind not in ("LORA", "BUTTERFLY"):
        raise CourseError(
            f"{folder} holds an adapter of peft_type = {kind!r}, and only LORA and BUTTERFLY are read. {MERGED}"
        )
    if kind == "LORA":
        check_settings(Path(folder), config)
    return config


def _read(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter's file, without the prefixes of wrappers in their names."""
    with open_weights(path) as file:
        tensors = {plain_name(key): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CourseError(
                f"{path} holds NaN or infinity in {key}: the training that wrote it went wrong. Take an earlier "
                "checkpoint, or train with a lower learning rate."
            )
    return tensors


def weights_file(folder: Path) -> Path:
    """The path of an adapter's tensors.

    It raises CourseError where they are absent, or where there is only a pickle file.
    """
    path = Path(folder) / WEIGHTS
    if path.is_file():
        return path
    if (pickled := path.with_suffix(".bin")).is_file():
        raise CourseError(
            f"{folder} holds its tensors in {pickled.name}, a pickle file, which can run code when it is loaded and is "
            f"not read here. Where you trust it, convert it, in Python: state = torch.load({str(pickled)!r}, "
            f"weights_only=True), then safetensors.torch.save_file(state, {str(path)!r})."
        )
    raise CourseError(
        f"{folder} is not an adapter's folder: it holds no {WEIGHTS}. Name the folder that save_adapter or PEFT wrote."
    )


def _load_lora(model: nn.Module, directory: Path, config: dict, saved: dict, name: str) -> list[str]:
    """`load_adapter` for LoRA: check every shape, then put the adapter on, then copy the numbers."""
    present = dict(lora_layers(model, name))
    layers: Mapping[str, Any] = present or _layers_of(model, config, saved)
    saved = _without_copies(model, saved)
    # Everything is checked before anything is changed: an error leaves the model as it was.
    _refuse_misfits(directory, _shapes(model, layers, config["r"]), saved)
    refuse_other_quantization(directory / WEIGHTS, _linear_layers_of(model))
    if is_relative(config):  # PiSSA or OLoRA: A and B belong to a base of which a part was taken out
        keys = {path: PREFIX + _outside(model, path) for path in layers}
        config, saved = as_plain_lora(directory, layers, config, saved, keys)
    rank, alpha, rslora = config["r"], config["lora_alpha"], config["use_rslora"]
    if present:  # it is refilled, which its rank has to allow; PiSSA's has doubled by now
        first: Any = next(iter(present.values())).adapters[name]
        _refuse_misfits(directory, _shapes(model, layers, first.rank), saved)
        set_adapter(model, name)
    else:
        inject_lora(model, list(layers), rank, alpha, config["lora_dropout"], rslora, name)
    for _, layer in lora_layers(model, name):
        path = layer.current  # the adapter `name`: it was made the active one
        path.alpha, path.use_rslora = alpha, rslora
        path.scaling = lora_scaling(alpha, path.rank, rslora)
        path.dropout.p = config["lora_dropout"]
    _copy(_state(model, dict(lora_layers(model, name)), name), saved)
    return list(layers)


def _shapes(model: nn.Module, layers: Mapping[str, Any], rank: int) -> dict[str, tuple[int, ...]]:
    """The tensors that an adapter of this rank on these layers has, by their names in files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path, layer in layers.items():
        out_features, in_features = layer_sizes(layer)
        shapes[_key(model, path, "lora_A.weight")] = (rank, in_features)
        shapes[_key(model, path, "lora_B.weight")] = (out_features, rank)
    return shapes


def _without_copies(model: nn.Module, saved: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors without those that are the base's own, bit for bit: PEFT adds the embeddings to the file where
    `target_modules` names one of them."""
    # An adapted layer's weight is LAYER.base.weight here and LAYER.base_layer.weight in PEFT's files: both without it.
    own = {name.replace(".base.", "."): weight for name, weight in model.state_dict().items()}
    kept = {}
    for key, tensor in saved.items():
        weight = own.get(key.removeprefix(PREFIX).replace(".base_layer.", "."))
        is_copy = (
            weight is not None and weight.shape == tensor.shape and torch.equal(weight.cpu(), tensor.to(weight.dtype))
        )
        if not is_copy:
            kept[key] = tensor
    return kept


def _load_butterfly(model: nn.Module, directory: Path, config: dict, saved: dict) -> list[str]:
    sizes = config["stages"], config["block_size"]
    present = dict(butterfly_layers(model))
    layers: Mapping[str, Any] = present or matching_layers(model, _here(model, config["target_modules"]))
    wanted = {}
    for path, layer in layers.items():
        ours = (layer.rotation.stages, layer.rotation.block_size) if present else sizes
        if ours != sizes:
            raise CourseError(
                f"{directory} has (stages, block_size) {sizes}, and {path} here has {ours}. Load it on a base without "
                "adapters."
            )
        width = layer_sizes(layer)[1]  # a butterfly turns the layer's input
        wanted[_key(model, path, "butterfly.angles")] = (butterfly_parameter_count(width, *sizes),)
    _refuse_misfits(directory, wanted, saved)
    refuse_other_quantization(directory / WEIGHTS, _linear_layers_of(model))
    if not present:
        inject_butterfly(model, list(layers), *sizes)
    _copy(_state(model, dict(butterfly_layers(model))), saved)
    return list(layers)


def _layers_of(model: nn.Module, config: dict, saved: dict) -> dict[str, nn.Module]:
    """The layers that the settings mean, by PEFT's rules; the file must hold the tensors of each.

    "all-linear" means every linear layer but the head. Null means what PEFT takes for this kind of model: some short
    names in every block, which are the last parts of the names in the file.
    """
    targets = config["target_modules"]
    if targets is None:
        layers_in_file = {key.rpartition(".lora_")[0] for key in saved}  # "…q_proj.lora_A.weight" -> "…q_proj"
        targets = sorted({name.rpartition(".")[2] for name in layers_in_file})
    if targets == "all-linear":
        head = getattr(model, "lm_head", None)
        layers = {path: layer for path, layer in linear_layers(model).items() if layer is not head}
    else:
        layers = matching_layers(model, _here(model, targets))
    return {path: layer for path, layer in layers.items() if is_selected(config, _outside(model, path))}


def _refuse_misfits(directory: Path, wanted: Mapping[str, tuple], saved: dict[str, torch.Tensor]) -> None:
    """Raise CourseError for the first tensor that is in one of the two only, or has another shape than `wanted`."""
    for key in sorted(wanted.keys() | saved.keys()):
        ours, theirs = wanted.get(key, "absent"), tuple(saved[key].shape) if key in saved else "absent"
        if ours == theirs:
            continue
        if ours == "absent" and not re.search(r"\.(lora_[AB]|butterfly)\.", key):
            raise CourseError(
                f"{directory} holds {key} {theirs} beside the adapters of linear layers: an embedding, or a layer that "
                f"was trained or resized as a whole. That is not read here. {MERGED}"
            )
        raise CourseError(
            f"{directory} is not for this model: {key} is {theirs} there and {ours} here. Load the base that it was "
            "trained on."
        )


@torch.no_grad()
def _copy(ours: dict[str, torch.Tensor], saved: dict[str, torch.Tensor]) -> None:
    for key, tensor in ours.items():
        tensor.copy_(saved[key])


def _state(model: nn.Module, layers: Mapping, name: str | None = None) -> dict[str, torch.Tensor]:
    """The trained tensors under the names of the file; they are the model's own, not copies."""
    state = {}
    for path, layer in layers.items():
        if hasattr(layer, "rotation"):
            state[_key(model, path, "butterfly.angles")] = layer.rotation.angles.detach()
        else:
            adapter = layer.adapters[name or layer.active]
            for matrix in ("A", "B"):
                state[_key(model, path, f"lora_{matrix}.weight")] = getattr(adapter, matrix).detach()
    return state


def _key(model: nn.Module, path: str, tensor: str) -> str:
    return f"{PREFIX}{_outside(model, path)}.{tensor}"


def _outside(model: nn.Module, path: str) -> str:
    """A layer's name in files. Files have transformers' names, and our own GPT-2 gives its layers other ones."""
    return name_in_file(path, model.config.model_type) if isinstance(model, Decoder) else path


def _linear_layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """All linear layers by their names in files, wrapped or not."""
    return {_outside(model, name): layer for name, layer in linear_layers(model).items()}


def _here(model: nn.Module, targets: str | list[str]) -> str | list[str]:
    """A file's targets by our names; short names and patterns mean the same in both."""
    if not isinstance(model, Decoder) or isinstance(targets, str):
        return targets
    return [name_here(name, model.config.model_type) if ".h." in f".{name}" else name for name in targets]


def _is_transposed(model: nn.Module, layers: Mapping) -> bool:
    """Whether the weights that the file's readers will find are (in, out)."""
    ours = isinstance(model, Decoder) and model.config.model_type == "gpt2"
    return ours or any(isinstance(layer.base, Conv1D) for layer in layers.values())


# --- a file by itself, without a model ---


def adapter_config(folder: Path | str) -> dict:
    """The settings in adapter_config.json of `folder`. It raises CourseError where the file is absent or damaged."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise CourseError(f"{folder} holds {what_is_there(Path(folder))}: there is no adapter_config.json.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CourseError(f"{path} is damaged: {error}. Copy or save the adapter again.") from error
    if not isinstance(config, dict):
        raise CourseError(f"{path} is damaged: it holds no settings. Copy or save the adapter again.")
    check_kinds(path, config)
    return config


def describe(config: dict) -> str:
    """An adapter's method and settings in a few words: "lora rank 8 alpha 16"."""
    name = str(config.get("peft_type", "unknown")).lower()
    if name == "lora":
        rslora = " rslora" if config.get("use_rslora") else ""
        init = f" init {initialisation(config)} (relative to a changed base)" if is_relative(config) else ""
        return f"lora rank {config.get('r', 8)} alpha {config.get('lora_alpha', 8):g}{rslora}{init}"
    if name == "butterfly":
        block = f" block {config['block_size']}" if config.get("block_size") else ""
        return f"butterfly {config.get('stages')} stages{block}"
    return name


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """Tensor shapes from the file's header: the tensors themselves are not read."""
    with open_weights(weights_file(folder)) as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no dictionary
