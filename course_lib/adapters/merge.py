"""Merging: an adapter folded into the base's weights, taken out again, mixed with others, and saved as a plain model.

A merged layer costs what the base costs, since the second path is gone. This is checked against PEFT's merge_and_unload
and add_weighted_adapter in tests/parity/test_adapters.py. A base in 4 bits is dequantised where it is merged into, as
its adapter was trained on what the codes stand for. Left out: PEFT's combinations by SVD, TIES and DARE, and quantising
the merged weights again.
"""

import math
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from course_lib.adapters.layers import AdaptedLayer, adapted_layers, is_foreign
from course_lib.adapters.lora import LoRALinear, LowRank, adapter_names, inject_lora, lora_layers
from course_lib.errors import CourseError
from course_lib.files import apply_umask, refuse_filled
from course_lib.models.devices import device_of
from course_lib.models.twin import twin
from course_lib.quantization.linear import Linear4bit
from course_lib.quantization.model import dequantize_model


@dataclass(frozen=True)
class MergeReport:
    """What rounding the merged weights to the base's dtype cost, over all entries of the layers that were changed.

    Attributes:
        layers: how many layers were changed.
        dtype: the base's dtype.
        max_error: the largest absolute difference from the merge in float32 (0 for a float32 base).
        mean_error: the mean of these differences.
        mean_change: the mean absolute change that the adapter makes, to compare the errors with.
    """

    layers: int
    dtype: str
    max_error: float
    mean_error: float
    mean_change: float


@torch.no_grad()
def merge(model: nn.Module, weights: Mapping[str, float] | None = None) -> MergeReport:
    """Fold the adapter into the weights, in place: W becomes W + scaling * B A, or W R for a butterfly.

    The sum is taken in float32 and rounded once, to the base's dtype. The original weights are kept for `unmerge`, as a
    second copy of the adapted layers. A layer in 4 bits becomes a plain one in the dtype before quantisation: its codes
    cannot hold the sum.

    Args:
        model: a model with adapters.
        weights: the LoRA adapters to fold in and how much of each, {"first": 0.7, "second": 0.3}. The result is
            exactly W plus the weighted sum of their changes. Default: the active adapter, once.

    Returns:
        What the rounding cost.

    Raises:
        CourseError: there is no adapter, one is merged already, a weight is tied to another layer's (merging would
            change both), or a weight is quantised by bitsandbytes (dequantise it first).

    Example:
        >>> from course_lib.adapters import inject_lora
        >>> model = nn.ModuleDict({"up": nn.Linear(8, 16)})
        >>> inject_lora(model, ["up"], rank=2)
        ['up']
        >>> report = merge(model)
        >>> report.mean_change  # B is still zero
        0.0
        >>> unmerge(model)
    """
    if weights is not None:
        _check_known(model, weights)
    layers = _mergeable(model)
    # Every layer counts as merged from here on, also one that holds none of the adapters and keeps its weight.
    for layer in layers:
        layer.original = (layer.base if isinstance(layer.base, Linear4bit) else layer.base.weight,)
    changed = [layer for layer in layers if not isinstance(layer, LoRALinear) or _holds(layer, weights)]
    largest, error, change, entries = 0.0, 0.0, 0.0, 0
    for layer in changed:
        if isinstance(layer.base, Linear4bit):
            layer.base = layer.base.to_plain()
        before = layer.base.weight
        if weights is not None and isinstance(layer, LoRALinear):
            exact = _weighted(layer, weights)
        else:
            exact = layer.exact_weight()
        after = exact.to(before.dtype)  # the one rounding, in the base's layout: (out, in), or (in, out) for Conv1D
        rounding = (after.to(exact.dtype) - exact).abs()
        largest = max(largest, rounding.max().item())
        error += rounding.sum(dtype=torch.float64).item()
        change += (exact - before).abs().sum(dtype=torch.float64).item()
        entries += exact.numel()
        # A new parameter in the old one's place: a twin of this model, which shares the old one, stays as it is.
        layer.base.weight = nn.Parameter(after, requires_grad=False)
    dtype = str(changed[-1].base.weight.dtype).removeprefix("torch.")
    return MergeReport(len(changed), dtype, largest, error / entries, change / entries)


def _weighted(layer: LoRALinear, weights: Mapping[str, float]) -> torch.Tensor:
    """W plus the weighted sum of the adapters' changes, in the base's layout, at float32 or better."""
    changes = [weight * layer.delta(name) for name, weight in weights.items()]
    return layer.in_layout(layer.matrix() + sum(changes))


def _mergeable(model: nn.Module) -> list[AdaptedLayer]:
    """The adapted layers. It raises CourseError for the first reason why they cannot be merged."""
    layers = list(adapted_layers(model))
    if not layers:
        raise CourseError("This model has no adapter to merge: inject or load one first.")
    if any(layer.merged for _, layer in layers):
        raise CourseError(
            "This model is merged already: merging twice would apply the change twice. Call unmerge first."
        )
    # A tied weight is one tensor under several names: it is counted once for each of them.
    owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for name, layer in layers:
        if isinstance(layer.base, Linear4bit):
            continue  # it owns its codes, and is replaced rather than written to
        weight = getattr(layer.base, "weight", None)
        # Packed bytes can be stored as floats, too: their dtype alone does not tell.
        if weight is None or is_foreign(layer.base) or not weight.is_floating_point():
            raise CourseError(f"{name} is quantised: dequantise the base before merging into it.")
        if owners[id(weight)] > 1:
            raise CourseError(
                f"The weight of {name} is tied to another layer's: merging would change both. Give the layer a copy of "
                "its weight first, or leave it out of target_modules."
            )
    return [layer for _, layer in layers]


def _holds(layer: LoRALinear, weights: Mapping[str, float] | None) -> bool:
    """Whether one of the adapters to merge (without weights: the active one) is on this layer."""
    return any(name in layer.adapters for name in ([layer.active] if weights is None else weights))


def _check_known(model: nn.Module, weights: Mapping[str, float]) -> None:
    if unknown := [name for name in weights if name not in adapter_names(model)]:
        raise CourseError(f"This model has no LoRA adapter named {unknown}; it has: {adapter_names(model)}.")
    if not weights or not all(math.isfinite(weight) for weight in weights.values()):
        raise CourseError(f"At least one adapter with a finite weight is needed, not {dict(weights)}.")


def unmerge(model: nn.Module) -> None:
    """Put the original weights back, bit for bit. It raises CourseError where nothing is merged.

    Subtracting the change again is not enough: (W + D) - D rounds twice, and about a tenth of the entries come back
    different (for a D of a tenth of W, in float32 and in bfloat16 alike). Each switch would change the base a little
    more.
    """
    kept = [(layer, layer.original[0]) for _, layer in adapted_layers(model) if layer.original is not None]
    if not kept:
        raise CourseError("This model is not merged: there is nothing to take out.")
    for layer, weight in kept:
        if isinstance(weight, nn.Module):  # the base in 4 bits, which a plain layer stood for
            layer.original, layer.base = None, weight.to(device_of(layer.base))
            continue
        device = layer.base.weight.device
        on_device = weight if weight.device == device else nn.Parameter(weight.to(device), requires_grad=False)
        layer.original, layer.base.weight = None, on_device


@torch.no_grad()
def combine_adapters(model: nn.Module, weights: Mapping[str, float], name: str, method: str = "cat") -> list[str]:
    """Make a new LoRA adapter from those on `model`, and make it the active one.

    cat: the ranks stand side by side, A = [w1 s1 A1; w2 s2 A2] and B = [B1 B2], so that B A is exactly the weighted sum
    of the changes. The new rank is the sum of the ranks.
    linear: A = sum of sign(w s) sqrt(abs(w s)) A_i and B = sum of sqrt(abs(w s)) B_i, for adapters of one rank, which
    the new one keeps. The result is the weighted sum of the changes plus cross terms such as sqrt(w1 s1 w2 s2)
    (B1 A2 + B2 A1), hence an approximation.

    Both are PEFT's add_weighted_adapter with that combination_type.

    Args:
        model: a model with LoRA adapters.
        weights: the adapters to combine and how much of each: {"first": 0.7, "second": 0.3}.
        name: the new adapter's name.
        method: "cat" or "linear".

    Returns:
        The names of the layers that the new adapter is on.

    Raises:
        CourseError: an adapter or the method is unknown, "linear" is given different ranks, or the sum of the ranks is
            above a layer's limit.
    """
    _check_known(model, weights)
    ranks = [_path(next(iter(lora_layers(model, key)))[1], key).rank for key in weights]
    if method not in ("cat", "linear"):
        raise CourseError(f"Adapters are combined by 'cat' or 'linear', not {method!r}.")
    if method == "linear" and len(set(ranks)) > 1:
        raise CourseError(f"'linear' needs adapters of one rank, not of {ranks}: use 'cat'.")
    rank = sum(ranks) if method == "cat" else ranks[0]
    names = list(dict.fromkeys(path for key in weights for path, _ in lora_layers(model, key)))
    inject_lora(model, names, rank=rank, alpha=rank, name=name)  # alpha = rank: a scaling of 1
    for _, layer in lora_layers(model, name):
        _fill(layer, {key: weight for key, weight in weights.items() if key in layer.adapters}, method)
    return names


def _path(layer: LoRALinear, name: str) -> LowRank:
    return cast(LowRank, layer.adapters[name])  # nn.ModuleDict knows its values as modules only


def _fill(layer: LoRALinear, weights: Mapping[str, float], method: str) -> None:
    """Write the combination into A (rank, in) and B (out, rank) of the layer's new, active adapter. B is zero yet."""
    layer.A.zero_()
    row = 0
    for key, weight in weights.items():
        part = _path(layer, key)
        factor = weight * part.scaling
        if method == "linear":
            # Half of the factor goes into A and half into B, as a root; its sign can go into one of them only.
            root = math.sqrt(abs(factor))
            layer.A.add_(part.A, alpha=math.copysign(root, factor))
            layer.B.add_(part.B, alpha=root)
        else:  # rows of adapters that this layer lacks stay zero: a file has one rank for the whole adapter
            layer.A[row : row + part.rank] = factor * part.A
            layer.B[:, row : row + part.rank] = part.B
            row += part.rank


def unload(model: nn.Module) -> nn.Module:
    """Put each adapted layer's base back in its place: after `merge` the changed model, before it the bare base.

    What is left is a plain model, with no trace of adapters in its names. Returns it.
    """
    for name, layer in list(adapted_layers(model)):
        model.set_submodule(name, layer.base)
    return model


def save_merged(model: Any, directory: Path | str) -> Path:
    """Write the model with its adapter folded in, for plain `from_pretrained`; `model` itself stays as it is.

    The folder is written whole or not at all.

    Args:
        model: a transformers model, merged or not.
        directory: a new or empty folder.

    Returns:
        The folder.

    Raises:
        CourseError: `directory` exists and is not empty, or `merge` refuses the model.
    """
    if not hasattr(model, "save_pretrained"):
        raise CourseError(
            f"{type(model).__name__} is not a transformers model: it has no save_pretrained. Merge and unload it, and "
            "save it with save_decoder."
        )
    directory = Path(directory)
    refuse_filled(directory)
    # The twin shares the weights, so that merging and unwrapping it costs no second model and leaves this one alone.
    plain: Any = twin(model)
    if not any(layer.merged for _, layer in adapted_layers(plain)):
        merge(plain)
    unload(plain)
    if any(isinstance(module, Linear4bit) for module in plain.modules()):
        dequantize_model(
            plain
        )  # layers without an adapter are still in 4 bits, which plain from_pretrained cannot read
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as partial:
        plain.save_pretrained(Path(partial) / "model")
        os.replace(apply_umask(Path(partial) / "model"), directory)
    return directory
