"""What the adapters share: the frozen layer with a trained change, and which of a model's layers are such.

Left out: embeddings and convolutions as targets. The tests are in tests/adapters/test_layers.py.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from course_lib.errors import CourseError
from course_lib.models import linear_layers as found
from course_lib.models.linear_layers import WrappedLayer
from course_lib.quantization.linear import Linear4bit
from course_lib.quantization.model import is_quantized

# The functions that find linear layers were here first: the old imports keep working.
layer_sizes, linear_layers = found.layer_sizes, found.linear_layers
matching_layers, select_layers = found.matching_layers, found.select_layers


class AdaptedLayer(WrappedLayer):
    """A frozen linear layer and a trained change of it, which a subclass defines by `adapted` and `exact_weight`.

    Args:
        base: the linear layer to adapt. It is frozen here.

    Attributes:
        base: the layer as it was.
        enabled: False makes the layer compute the base alone (see `disable_adapters`).
        original: None, or a tuple with what `merge` has replaced: the base's weight, or the whole base where that is
            quantised. nn.Module would register either as a part of the model; it does not look into a tuple.
    """

    original: tuple[nn.Parameter | nn.Module] | None

    def __init__(self, base: nn.Module):
        super().__init__(base.requires_grad_(False))
        self.enabled, self.original = True, None

    @property
    def merged(self) -> bool:
        """Whether the base's weight holds the change."""
        return self.original is not None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output: (..., in) -> (..., out), without the change where it is merged or switched off."""
        if self.merged or not self.enabled:
            return self.base(x)  # a merged base holds the change already: adding it here would apply it twice
        return self.adapted(x)

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
        weight = self.base.weight.T if _is_transposed(self.base) else self.base.weight  # (out, in)
        # bfloat16 keeps 8 bits of a number: a small change added to it there would be rounded away.
        return weight.to(torch.promote_types(weight.dtype, torch.float32))

    def in_layout(self, matrix: torch.Tensor) -> torch.Tensor:
        """A matrix (out, in) as the base stores it: transposed for `Conv1D`."""
        # .T is a view whose rows do not lie one after another in memory; safetensors refuses to write such a weight.
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
    # Each layer's own state is put back, so that an inner block does not switch an outer one's layers on.
    before = [(layer, layer.enabled) for _, layer in adapted_layers(model)]
    try:
        for layer, _ in before:
            layer.enabled = False
        yield model
    finally:
        for layer, enabled in before:
            layer.enabled = enabled
