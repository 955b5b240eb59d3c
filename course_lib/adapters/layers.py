"""What the adapters share: finding a model's linear layers by name, and the frozen layer with a trained change.

Left out: embeddings and convolutions as targets. The tests are in tests/adapters/test_layers.py.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from course_lib.errors import CourseError
from course_lib.quantization.linear import Linear4bit
from course_lib.quantization.model import is_quantized


class AdaptedLayer(nn.Module):
    """A frozen linear layer and a trained change of it, which a subclass defines by `adapted` and `exact_weight`.

    Args:
        base: the linear layer to adapt. It is frozen here.

    Attributes:
        base: the layer as it was.
        enabled: False makes the layer compute the base alone (see `disable_adapters`).
        original: None, or a tuple with what `merge` has replaced: the base's weight, or the whole base where that is
            quantised. nn.Module would register either as a part of the model; it does not look into a tuple.
    """

    base: Any  # nn.Linear, Conv1D or a quantised layer: each has a weight, but they share no class
    original: tuple[nn.Parameter | nn.Module] | None

    def __init__(self, base: nn.Module):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.enabled, self.original = True, None

    @property
    def merged(self) -> bool:
        """Whether the base's weight holds the change."""
        return self.original is not None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output: (..., in) -> (..., out), without the change where it is merged or switched off."""
        # A merged base holds the change already: adding it here would apply it twice.
        return self.base(x) if self.merged or not self.enabled else self.adapted(x)

    def adapted(self, x: torch.Tensor) -> torch.Tensor:
        """The layer with its change: (..., in) -> (..., out)."""
        raise NotImplementedError

    def exact_weight(self) -> torch.Tensor:
        """The changed weight in the base's layout, at float32 or better."""
        raise NotImplementedError

    def matrix(self) -> torch.Tensor:
        """The base's weight as (out, in), at float32 or better; of a base in 4 bits, what the codes stand for.

        It raises CourseError where bitsandbytes has packed the weight: such bytes are not weights.
        """
        if is_foreign(self.base):
            raise CourseError(
                "This layer's weight is quantised by bitsandbytes: dequantise the model, or quantise it by "
                "quantize_model."
            )
        weight = self.base.weight.T if _is_transposed(self.base) else self.base.weight
        return weight.to(torch.promote_types(weight.dtype, torch.float32))

    def in_layout(self, matrix: torch.Tensor) -> torch.Tensor:
        """A matrix (out, in) as the base stores it: transposed for `Conv1D`."""
        return matrix.T.contiguous() if _is_transposed(self.base) else matrix

    def merged_weight(self) -> torch.Tensor:
        """The changed weight in the base's layout and dtype: (out, in) for nn.Linear, (in, out) for `Conv1D`."""
        return self.base.weight.clone() if self.merged else self.exact_weight().to(self.base.weight.dtype)


def _is_transposed(layer: nn.Module) -> bool:
    """Whether a layer's weight is (in, out): transformers' `Conv1D`, also in 4 bits."""
    return isinstance(layer, Conv1D) or (isinstance(layer, Linear4bit) and layer.transposed)


def is_foreign(layer: nn.Module) -> bool:
    """Whether a layer's weight is quantised by bitsandbytes, and not by us."""
    return is_quantized(layer) and not isinstance(layer, Linear4bit)


def adapted_layers(model: nn.Module) -> Iterable[tuple[str, AdaptedLayer]]:
    """Every wrapped layer of any kind, each with its full name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, AdaptedLayer))


def layer_sizes(layer: Any) -> tuple[int, int]:
    """(out, in) of a linear layer, wrapped or not. transformers' `Conv1D` (GPT-2) stores its weight as (in, out)."""
    layer = layer.base if isinstance(layer, AdaptedLayer) else layer
    return (layer.nf, layer.nx) if isinstance(layer, Conv1D) else (layer.out_features, layer.in_features)


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers an adapter can be put on, by full name: nn.Linear, `Conv1D`, quantised ones, and wrapped ones.

    A quantised layer is known by its attributes in_features and out_features.
    """
    wrapped = {name: layer for name, layer in adapted_layers(model)}
    found = {}
    for name, module in model.named_modules():
        has_sizes = hasattr(module, "in_features") and hasattr(module, "out_features")
        is_linear = isinstance(module, Conv1D) or has_sizes
        is_inside = name.rpartition(".")[0] in wrapped  # the base of a wrapped layer: the wrapper stands for it
        if name in wrapped or (is_linear and not is_inside):
            found[name] = module
    return found


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
    if isinstance(targets, str):
        try:
            pattern = re.compile(targets)
        except re.error as error:
            raise CourseError(f"The target pattern {targets!r} is no regular expression: {error}.") from None
        return {name: layer for name, layer in linear_layers(model).items() if pattern.fullmatch(name)}
    return {
        name: layer for name, layer in linear_layers(model).items() if any(_is_end(name, target) for target in targets)
    }


def _is_end(name: str, target: str) -> bool:
    """Whether the name ends in whole parts of `target`: "q_proj" is an end of "attn.q_proj", "proj" is not."""
    return f".{name}".endswith(f".{target}")


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
    names = ", ".join(sorted({name.split(".")[-1] for name in linear_layers(model)}))
    if isinstance(targets, str) and not found:
        raise CourseError(
            f"The pattern {targets!r} matches no linear layer's full name (put plain names in a list);"
            f" this model has: {names}."
        )
    if missing := [t for t in targets if not isinstance(targets, str) and not any(_is_end(n, t) for n in found)]:
        raise CourseError(f"No linear layer is named {missing}; this model has: {names}.")
    if not found:
        raise CourseError(f"The list of targets is empty; this model has: {names}.")
    return found


def refuse_merged(model: nn.Module) -> None:
    """Raise CourseError where an adapter is folded into the weights: the model no longer uses A and B then."""
    if any(layer.merged for _, layer in adapted_layers(model)):
        raise CourseError("This model's adapter is merged into its weights: unmerge it first.")


@contextmanager
def disable_adapters(model: nn.Module) -> Iterator[nn.Module]:
    """Inside `with disable_adapters(model):` the model computes its base alone.

    It raises CourseError where the adapter is merged, since the base's own weights are not in use then.
    """
    refuse_merged(model)
    before = [(layer, layer.enabled) for _, layer in adapted_layers(model)]
    try:
        for layer, _ in before:
            layer.enabled = False
        yield model
    finally:
        for layer, enabled in before:
            layer.enabled = enabled
