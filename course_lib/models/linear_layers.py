"""The linear layers of a model, found by name: what adapters are put on, and what is quantised or calibrated.

The names in `targets` mean what they mean in PEFT's `target_modules`. tests/adapters/test_layers.py compares the
two.
"""

import re
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from course_lib.errors import CourseError


class WrappedLayer(nn.Module):
    """A layer in the place of a linear layer, which it holds as its `base`.

    Args:
        base: nn.Linear, transformers' `Conv1D` or a quantised layer.
    """

    base: Any  # these three have a weight each, but they share no class

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base = base


def layer_sizes(layer: Any) -> tuple[int, int]:
    """(out, in) of a linear layer, wrapped or not. transformers' `Conv1D` (GPT-2) stores its weight as (in, out)."""
    layer = layer.base if isinstance(layer, WrappedLayer) else layer
    return (layer.nf, layer.nx) if isinstance(layer, Conv1D) else (layer.out_features, layer.in_features)


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers by full name: nn.Linear, `Conv1D`, quantised ones, and wrapped ones.

    A quantised layer is known by its attributes in_features and out_features.
    """
    wrapped = {name for name, module in model.named_modules() if isinstance(module, WrappedLayer)}
    found = {}
    for name, module in model.named_modules():
        has_sizes = hasattr(module, "in_features") and hasattr(module, "out_features")
        is_linear = isinstance(module, Conv1D) or has_sizes
        is_inside = name.rpartition(".")[0] in wrapped  # the base of a wrapped layer: the wrapper stands for it
        if name in wrapped or (is_linear and not is_inside):
            found[name] = module
    return found


def name_ends_with(name: str, end: str) -> bool:
    """Whether a layer's name ends with the whole parts of `end`.

    Args:
        name: the full name, parts joined by points.
        end: one part, or several.

    Returns:
        True where it does.

    Example:
        >>> name_ends_with("attn.q_proj", "q_proj"), name_ends_with("attn.q_proj", "proj")
        (True, False)
    """
    return f".{name}".endswith(f".{end}")


def matching_layers(model: nn.Module, targets: Sequence[str] | str) -> dict[str, nn.Module]:
    """The linear layers that `targets` means, by PEFT's rule for `target_modules`; none where nothing matches.

    Args:
        model: a transformers model or our decoder, with or without adapters.
        targets: a list holds names or ends of names: ``"c_attn"``, ``"self_attn.q_proj"``,
            ``"model.layers.0.self_attn.q_proj"``. A string is a regular expression for the whole name, such as
            ``.*layers\\.[01]\\..*(q|v)_proj``.

    Returns:
        The layers by their full names.

    Raises:
        CourseError: the string is not a valid regular expression.
    """
    layers = linear_layers(model)
    if not isinstance(targets, str):
        return {name: layer for name, layer in layers.items() if any(name_ends_with(name, end) for end in targets)}
    try:
        pattern = re.compile(targets)
    except re.error as error:
        raise CourseError(
            f"The target pattern {targets!r} is not a regular expression: {error}. Put plain names in a list."
        ) from None
    return {name: layer for name, layer in layers.items() if pattern.fullmatch(name)}


def select_layers(model: nn.Module, targets: Sequence[str] | str) -> dict[str, nn.Module]:
    """`matching_layers` for targets that all have to match.

    Args:
        model: as for `matching_layers`.
        targets: as for `matching_layers`.

    Returns:
        The layers by their full names.

    Raises:
        CourseError: a target matches nothing, or the list is empty. The error lists the names that exist.
    """
    found = matching_layers(model, targets)
    existing = ", ".join(sorted({name.split(".")[-1] for name in linear_layers(model)}))
    if isinstance(targets, str):  # one pattern
        if not found:
            raise CourseError(
                f"The pattern {targets!r} matches no linear layer's full name (put plain names in a list);"
                f" this model has: {existing}."
            )
        return found
    if missing := [target for target in targets if not any(name_ends_with(name, target) for name in found)]:
        raise CourseError(f"No linear layer is named {missing}; this model has: {existing}.")
    if not found:
        raise CourseError(f"The list of targets is empty; this model has: {existing}.")
    return found
