"""How the base was quantised that an adapter was trained on: recorded in its file, and checked when it is loaded.

An adapter of QLoRA has learned to make up for the errors of its base's codes as well. On a base in 4 bits of another
kind, or with other layers left in full precision, it would meet other errors, and nothing would say so. The record is
in the metadata of adapter_model.safetensors,
since PEFT warns of keys in adapter_config.json that it does not know.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from course_lib.adapters.layers import AdaptedLayer
from course_lib.errors import CourseError, first_line
from course_lib.models.linear_layers import name_ends_with
from course_lib.quantization.linear import Linear4bit

KEY = "base_quantization"
CODES = ("quant_type", "block_size", "double_quant")  # what decides how codes are read


def quantization_of(layer: Any) -> dict[str, Any] | None:
    """How a layer's weight is quantised, by us or by bitsandbytes; None where it is not in 4 bits.

    The dictionary has the names of `load_quantized`. Its dtype is that of the weight before quantisation.
    """
    base = layer.base if isinstance(layer, AdaptedLayer) else layer
    if isinstance(layer, AdaptedLayer) and layer.original is not None:  # merged: this was the base until then
        base = layer.original[0] if isinstance(layer.original[0], nn.Module) else base
    if isinstance(base, Linear4bit):
        found = (base.quant_type, base.block_size, base.nested_absmax is not None, base.dtype)
    elif (state := getattr(getattr(base, "weight", None), "quant_state", None)) is not None:
        found = (state.quant_type, state.blocksize, state.nested, state.dtype)
    else:
        return None
    about = dict(zip((*CODES, "dtype"), found, strict=True))
    return about | {"dtype": str(about["dtype"]).removeprefix("torch.")}


def quantization_record(layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """The entry for the metadata of an adapter's file; empty where the base is not in 4 bits.

    Args:
        layers: all linear layers of the model by their names in files. Those in full precision are recorded, whether
            the adapter is on them or not.
    """
    found = next((about for layer in layers.values() if (about := quantization_of(layer))), None)
    if found is None:
        return {}
    return as_record(found | {"skip": [name for name, layer in layers.items() if quantization_of(layer) is None]})


def as_record(about: dict[str, Any]) -> dict[str, str]:
    """The entry for a base that is quantised in this way, see `quantization_of`."""
    return {KEY: json.dumps(about)}


def recorded_quantization(weights: Path) -> dict[str, Any] | None:
    """How the base was quantised that an adapter was trained on, by the names of `load_quantized`.

    Args:
        weights: the adapter's file of tensors.

    Returns:
        Kind, block size and double quantisation, and in newer files the dtype before and the layers that were left in
        full precision; None where the file does not say, as for a base that was not in 4 bits.

    Raises:
        CourseError: the file is damaged.
    """
    try:
        with safe_open(weights, framework="pt") as file:
            text = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError) as error:
        raise CourseError(
            f"{weights} is damaged or missing: {first_line(error)}. Copy or save the adapter again."
        ) from None
    if text is None:
        return None
    try:
        trained_on = json.loads(text)
        in_words(trained_on)
    except (ValueError, TypeError, KeyError):
        raise CourseError(
            f"{weights} is damaged: its metadata {KEY} is {text!r}. Copy or save the adapter again."
        ) from None
    return trained_on


def refuse_other_quantization(weights: Path, layers: Mapping[str, nn.Module]) -> None:
    """Check that an adapter trained on a base in 4 bits goes on the same kind of base, or on one in full precision.

    Args:
        weights: the adapter's file of tensors.
        layers: all linear layers of the model by their names in files.

    Raises:
        CourseError: a layer is in 4 bits of another kind, or other layers are in 4 bits than in training.
    """
    trained_on = recorded_quantization(weights)
    if trained_on is None:
        return
    found = {name: quantization_of(layer) for name, layer in layers.items()}
    for name, here in found.items():
        if here is not None and any(here[key] != trained_on[key] for key in CODES):
            raise CourseError(
                f"{weights} was trained on a base in {in_words(trained_on)}, and {name} here is in {in_words(here)}: "
                "quantise the base in the same way, or load it in full precision."
            )
    if "skip" in trained_on and any(found.values()):
        _refuse_other_layers(weights, trained_on["skip"], found)


def _refuse_other_layers(weights: Path, skip: list[str], found: Mapping[str, dict[str, Any] | None]) -> None:
    """CourseError where a layer that was left in full precision is in 4 bits here, or the other way round."""
    for name in _inner(found):
        stayed = any(name_ends_with(name, end) or name_ends_with(end, name) for end in skip)
        if stayed == (found[name] is not None):
            then, now = ("full precision", "4 bits") if stayed else ("4 bits", "full precision")
            raise CourseError(
                f"{weights} was trained on a base with {name} in {then}, and here it is in {now}: quantise the base "
                f"with skip={skip}, or load all of it in full precision."
            )


def _inner(names: Iterable[str]) -> list[str]:
    """Those of layers inside the network. Its head has another name in a model for another task, or there is none."""
    return [name for name in names if "." in name]


def in_words(about: dict[str, Any]) -> str:
    """How a base is quantised: "nf4, blocks of 64 with double quantisation"."""
    double = " with double quantisation" if about["double_quant"] else ""
    stay = about.get("skip", [])
    if not isinstance(stay, list):
        raise TypeError(f"skip is a list of names, not {stay!r}")
    plain = ""
    if inner := _inner(stay):
        plain = f", without {inner[0]}" + (f" and {len(inner) - 1} other layers" if len(inner) > 1 else "")
    return f"{about['quant_type']}, blocks of {about['block_size']}{double}{plain}"
