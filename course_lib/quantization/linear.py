"""A linear layer whose frozen weight is kept in 4 bits: section 3, eq. 5 of QLoRA (arXiv:2305.14314).

    y = x W^T + b,    W = dequantise(codes, constants)        x: (..., in), W: (out, in), y: (..., out)

W exists in 16 or 32 bits only while it is multiplied by, one layer at a time: the forward pass makes it and drops it,
and the backward pass, dx = dy W, makes it again. Nothing here ever writes to the stored codes and constants, so that
evaluating, training, merging and saving in any order give the same numbers (tests/quantization/test_orders.py).
bitsandbytes' layer rewrites its weight in place at the first evaluation on some processors (chapter 05).

Left out: products of 4-bit codes without dequantising them first, which need kernels of their own.
"""

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from course_lib.errors import CourseError
from course_lib.models import onednn
from course_lib.models.factors import Factors
from course_lib.quantization.tensor import QuantizedTensor, quantize_4bit

COMPUTE_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Linear4bit(nn.Module):
    """y = x W^T + b with W in 4 bits.

    Args:
        quantized: W, (out, in).
        bias: (out,), or None. It is frozen here.
        compute_dtype: x and W are brought to it for the product, and the result goes back to x's dtype. None means
            x's own dtype, or under autocast that of autocast.
        transposed: the layer stands for transformers' `Conv1D`, which stores W as (in, out); `to_plain` gives one back.

    Attributes:
        packed: the codes, a buffer, and so on for the other tensors of `QuantizedTensor`.
        quant_state: kind, block size, dtype and shape as JSON in bytes. It is a buffer, so that a state_dict says how
            its codes are to be read.

    Raises:
        CourseError: W does not have two axes, or there is no such compute dtype.
    """

    packed: Tensor
    absmax: Tensor
    nested_absmax: Tensor | None
    nested_offset: Tensor | None
    quant_state: Tensor

    def __init__(
        self,
        quantized: QuantizedTensor,
        bias: Tensor | None = None,
        compute_dtype: torch.dtype | None = None,
        transposed: bool = False,
    ):
        super().__init__()
        if len(quantized.shape) != 2:
            raise CourseError(f"A linear layer's weight has two axes, and this one has the shape {quantized.shape}.")
        if compute_dtype not in (None, *COMPUTE_DTYPES):
            raise CourseError(f"A 4-bit layer cannot compute in {compute_dtype}: choose a floating-point dtype.")
        self.out_features, self.in_features = quantized.shape
        self.compute_dtype, self.transposed = compute_dtype, transposed
        self.quant_type, self.block_size, self.dtype = quantized.quant_type, quantized.block_size, quantized.dtype
        for name in TENSORS:
            self.register_buffer(name, getattr(quantized, name))
        state = torch.frombuffer(bytearray(self._described(), "utf-8"), dtype=torch.uint8)
        self.register_buffer("quant_state", state.to(quantized.device))
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @classmethod
    def from_plain(
        cls,
        layer: nn.Module,
        quant_type: str = "nf4",
        block_size: int = 64,
        double_quant: bool = False,
        compute_dtype: torch.dtype | None = None,
    ) -> "Linear4bit":
        """Quantise a layer, which stays as it is.

        Args:
            layer: an nn.Linear or transformers' `Conv1D`.
            quant_type: as for `quantize_4bit`.
            block_size: as for `quantize_4bit`.
            double_quant: as for `quantize_4bit`.
            compute_dtype: as for the class.

        Returns:
            The layer in 4 bits.

        Raises:
            CourseError: it is another kind of layer, or its weight cannot be quantised.
        """
        if isinstance(layer, Linear4bit):
            raise CourseError("This layer is quantised already: dequantise it before quantising it in another way.")
        if not isinstance(layer, nn.Linear | Conv1D):
            raise CourseError(f"{type(layer).__name__} is not a linear layer: only nn.Linear and Conv1D are quantised.")
        transposed = isinstance(layer, Conv1D)
        weight = layer.weight.T if transposed else layer.weight  # (out, in)
        quantized = quantize_4bit(weight, quant_type, block_size, double_quant)
        made = cls(quantized, layer.bias, compute_dtype, transposed)
        return made.train(layer.training)

    @property
    def quantized(self) -> QuantizedTensor:
        """W as a `QuantizedTensor` over this layer's buffers."""
        shape = torch.Size((self.out_features, self.in_features))
        return QuantizedTensor(
            self.packed,
            self.absmax,
            shape,
            self.quant_type,
            self.block_size,
            self.dtype,
            self.nested_absmax,
            self.nested_offset,
        )

    @property
    def weight(self) -> Tensor:
        """W, dequantised anew at each access, in the dtype before quantisation: (out, in), or Conv1D's (in, out).

        What asks a layer for its weight gets the weight here, and never the packed bytes.
        """
        matrix = self.quantized.dequantize()
        return matrix.T if self.transposed else matrix

    def forward(self, x: Tensor) -> Tensor:
        """x W^T + b: (..., in) -> (..., out)."""
        dtype = self.compute_dtype or _autocast_dtype(x) or x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        y = _product(x.to(dtype), bias, self.quantized)  # (..., out)
        return y if self.compute_dtype is None else y.to(x.dtype)

    def factors(self) -> Factors | None:
        """W and b for `models.fused`, or None where a compute dtype of its own asks for more than the formula."""
        if self.compute_dtype is not None:
            return None
        return Factors(None, self.bias, quantized=self.quantized)

    def to_plain(self, dtype: torch.dtype | None = None) -> nn.Linear | Conv1D:
        """The layer it stands for, with the dequantised weight in a dtype (default: that before quantisation)."""
        matrix = self.quantized.dequantize(dtype)  # (out, in)
        matrix = matrix.T.contiguous() if self.transposed else matrix
        weight = nn.Parameter(matrix, requires_grad=False)
        if self.transposed:
            plain: Any = Conv1D(0, 0)
            plain.nf, plain.nx = self.out_features, self.in_features
        else:
            plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        plain.weight = weight
        plain.bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        return plain.train(self.training)

    def extra_repr(self) -> str:
        own = f"{self.in_features}, {self.out_features}, {self.quant_type}, block_size={self.block_size}"
        return own + (", double_quant=True" if self.nested_absmax is not None else "")

    def _described(self) -> str:
        """What `quant_state` says."""
        about = {"quant_type": self.quant_type, "block_size": self.block_size}
        about |= {"dtype": str(self.dtype).removeprefix("torch."), "shape": [self.out_features, self.in_features]}
        return json.dumps(about)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Linear4bit":
        """nn.Module's way to move its tensors. `model.to(torch.bfloat16)` must not round the constants."""
        before = {name: getattr(self, name) for name in TENSORS}
        super()._apply(fn, recurse)
        for name, tensor in before.items():
            if tensor is not None and getattr(self, name).dtype != tensor.dtype:
                setattr(self, name, tensor.to(getattr(self, name).device))
        return self

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        """nn.Module's way to read its tensors. Codes of another kind would be read as other numbers: refuse them."""
        stored = state_dict.get(prefix + "quant_state")
        if stored is not None and not stored.is_meta:
            text = bytes(stored.cpu().tolist()).decode("utf-8", errors="replace")
            if text != self._described():
                raise CourseError(
                    f"The weight {prefix}packed was quantised as {text}, and this layer as {self._described()}: "
                    "quantise the model in the same way before loading it."
                )
        super()._load_from_state_dict(state_dict, prefix, *args)


TENSORS = ("packed", "absmax", "nested_absmax", "nested_offset")


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What autocast wants products in; None where it is off or leaves x alone."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(kind)


@torch.compiler.disable  # it would be traced again and again, with its tables, for nothing that can be made faster
def _product(x: Tensor, bias: Tensor | None, quantized: QuantizedTensor) -> Tensor:
    """x W^T + b."""
    return _Product.apply(x, bias, quantized)


class _Product(torch.autograd.Function):
    """x W^T + b. For the backward pass it keeps the codes, which are there anyway, and neither x nor W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, quantized: QuantizedTensor) -> Tensor:
        ctx.quantized = quantized
        with torch.autocast(x.device.type, enabled=False):  # the dtype is chosen by now
            weight, rows = quantized.dequantize(x.dtype), x.reshape(-1, x.shape[-1])
            return onednn.project(rows, weight, bias).view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        want_x, want_bias, _ = ctx.needs_input_grad
        rows, dx = dy.reshape(-1, dy.shape[-1]), None
        if want_x:
            weight = ctx.quantized.dequantize(dy.dtype)
            dx = onednn.times(rows, weight).view(*dy.shape[:-1], weight.shape[1])  # (..., out) (out, in) -> (..., in)
        return dx, rows.sum(0) if want_bias else None, None
