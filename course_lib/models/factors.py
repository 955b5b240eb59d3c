"""The tensors of a linear layer, for the parts of the decoder that compute several layers at once (see `fused`)."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn


class Dequantizable(Protocol):
    """A matrix in few bits."""

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The matrix, anew."""


class Factors(NamedTuple):
    """The tensors of a linear layer: y = x W^T + b, plus s (x A^T) B^T where it has a low-rank adapter (LoRA).

    weight: (out, in). bias: (out,) or None. A: (rank, in) and B: (out, rank), or None. scaling: s.
    quantized: what stands for a frozen weight in few bits, where weight is None. It is dequantised whenever it is
    needed, and never kept (see `quantization.linear`).
    """

    weight: Tensor | None
    bias: Tensor | None = None
    A: Tensor | None = None
    B: Tensor | None = None
    scaling: float = 1.0
    quantized: Dequantizable | None = None

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """The weight, (out, in): itself, or dequantised to `dtype`."""
        if self.quantized is not None:
            return self.quantized.dequantize(dtype)
        return cast(Tensor, self.weight)  # one of the two is there


def factors_of(layer: nn.Module) -> Factors | None:
    """The tensors of `layer`, or None where calling it does more than the formula of `Factors`.

    A layer of another kind than nn.Linear gives them by a method `factors` (see `adapters.lora.LoRALinear`).
    """
    if has_hooks(layer):
        return None
    if type(layer) is nn.Linear:
        return Factors(layer.weight, layer.bias)
    own = getattr(layer, "factors", None)
    return own() if own else None


def regrouped(tensors: Sequence[Any], constants: Sequence[tuple]) -> list[Factors]:
    """The flat list that autograd wants, as one Factors for each layer again.

    Args:
        tensors: weight, bias, A and B of each layer in turn.
        constants: the other fields of each layer's Factors, which have no gradient.

    Returns:
        The factors of each layer.
    """
    groups = [tensors[4 * i : 4 * i + 4] for i in range(len(constants))]
    return [Factors(*group, *rest) for group, rest in zip(groups, constants, strict=True)]


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module also calls what somebody has registered on it."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
