"""Matrix products for decoding: x W^T with W in float32, bfloat16, eight or four bits.

A token's pass reads every weight once and does two operations with each, so the bytes of the weights are what it costs.
Each class packs a matrix once and multiplies with it often. torch's kernels for eight and four bits are fast with
bfloat16 inputs alone (2.13: with float32 ones they fall back to a loop that is ten to a hundred times slower), so x is
rounded to bfloat16 for them, and sums run in float32 inside.

A norm's weights stand before the matrix: W (w * n) = (W diag(w)) n. They are multiplied into W once, except in four
bits, where neighbours share a scale: columns of unlike size would spoil it. SmolLM2's packaged weights come from a file
of four bits in groups of 32, so packing them again costs 0.0002 nats a token; with the norms multiplied in, it was 0.3.
Weights that were never in four bits lose more.

Shapes: x is (rows, in), W (out, in), the result (rows, out) in float32; `columns` (in,) is multiplied onto x.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.errors import CourseError

GROUP = 32  # numbers that share a scale and an offset, in four bits
MANY_ROWS = 16  # from so many rows on, a packed matrix is unpacked for the product: the kernels for few are slow then


def _scaled(weight: Tensor, columns: Tensor | None) -> Tensor:
    """W diag(columns) in float32."""
    weight = weight.detach().float()
    return weight if columns is None else weight * columns


class Float32Product:
    """W as it is, stored as (in, out): read row by row in a product with one row, it comes at full bandwidth.

    On the machine of the measurements, `F.linear` took 1.5 times as long with one row.

    Args:
        weight: (out, in).
        columns: (in,), or None for ones; likewise below.
    """

    def __init__(self, weight: Tensor, columns: Tensor | None = None):
        self.weight = _scaled(weight, columns).t().contiguous()  # (in, out)

    def __call__(self, x: Tensor) -> Tensor:
        """x W^T."""
        return torch.mm(x, self.weight)

    def added_to(self, total: Tensor, x: Tensor) -> Tensor:
        """total + x W^T, in one operation."""
        return torch.addmm(total, x, self.weight)

    def matrix(self) -> Tensor:
        """The weight as it is used, float32 (out, in)."""
        return self.weight.t()

    def tensors(self) -> list[Tensor]:
        """What is stored."""
        return [self.weight]


class _Packed(ABC):
    """A product in bfloat16 inputs, with the sum taken in float32."""

    @abstractmethod
    def _multiply(self, x: Tensor) -> Tensor:
        """x W^T for few rows, bfloat16 to bfloat16."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """The weight as it is used, float32 (out, in)."""

    def __call__(self, x: Tensor) -> Tensor:
        """x W^T."""
        if x.shape[0] >= MANY_ROWS:
            return F.linear(x.bfloat16(), self.matrix().bfloat16()).float()
        return self._multiply(x.bfloat16()).float()

    def added_to(self, total: Tensor, x: Tensor) -> Tensor:
        """total + x W^T."""
        if x.shape[0] >= MANY_ROWS:
            return total + self(x)
        return total + self._multiply(x.bfloat16())  # the sum is float32 by promotion


class BFloat16Product(_Packed):
    """W rounded to bfloat16: half the bytes.

    Args:
        weight: (out, in).
        columns: as for `Float32Product`.
    """

    def __init__(self, weight: Tensor, columns: Tensor | None = None):
        self.weight = _scaled(weight, columns).bfloat16().contiguous()

    def _multiply(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)

    def __call__(self, x: Tensor) -> Tensor:
        """x W^T. Nothing has to be unpacked for many rows."""
        return self._multiply(x.bfloat16()).float()

    def matrix(self) -> Tensor:
        """The weight as it is used, float32 (out, in)."""
        return self.weight.float()

    def tensors(self) -> list[Tensor]:
        """What is stored."""
        return [self.weight]


class Int8Product(_Packed):
    """W in eight bits, a scale for each row: w = q * max over the row / 127 (`torch._weight_int8pack_mm`).

    Args:
        weight: (out, in).
        columns: as for `Float32Product`.
    """

    def __init__(self, weight: Tensor, columns: Tensor | None = None):
        weight = _scaled(weight, columns)
        self.scales = (weight.abs().amax(dim=1).clamp(min=1e-30) / 127).bfloat16()  # (out,)
        self.q = (weight / self.scales.float()[:, None]).round().clamp(-127, 127).to(torch.int8)

    def _multiply(self, x: Tensor) -> Tensor:
        return torch._weight_int8pack_mm(x, self.q, self.scales)

    def matrix(self) -> Tensor:
        """The weight as it is used, float32 (out, in)."""
        return self.q.float() * self.scales.float()[:, None]

    def tensors(self) -> list[Tensor]:
        """What is stored."""
        return [self.q, self.scales]


class Int4Product(_Packed):
    """W in four bits; every 32 neighbours in a row share a scale and an offset: w = (q - 8) * scale + zero.

    With the smallest number at q = 0 and the largest at q = 15: scale = (max - min) / 15, zero = min + 8 * scale
    (`torch._weight_int4pack_mm_for_cpu`).

    Args:
        weight: (out, in), in divisible by 32 and out by 16.
        columns: (in,), kept beside the matrix; or None.

    Raises:
        CourseError: it is not.
    """

    def __init__(self, weight: Tensor, columns: Tensor | None = None):
        rows, width = weight.shape
        self.columns = columns
        if width % GROUP or rows % 16:
            raise CourseError(
                f"A matrix of {rows} x {width} cannot be packed in four bits: {GROUP} has to divide {width}."
            )
        groups = weight.detach().float().view(rows, -1, GROUP)  # (out, in / 32, 32)
        low, high = groups.amin(dim=-1), groups.amax(dim=-1)
        scale = ((high - low).clamp(min=1e-30) / 15).bfloat16()
        zero = (low + 8 * scale.float()).bfloat16()
        q = ((groups - zero.float()[..., None]) / scale.float()[..., None] + 8).round().clamp(0, 15)
        self.shape = rows, width
        self.packed = torch._convert_weight_to_int4pack_for_cpu(q.int().view(rows, width), 1)
        self.scale_zero = torch.stack([scale, zero], dim=-1).transpose(0, 1).contiguous()  # (in / 32, out, 2)

    def _multiply(self, x: Tensor) -> Tensor:
        x = x.bfloat16() if self.columns is None else (x * self.columns).bfloat16()
        return torch._weight_int4pack_mm_for_cpu(x, self.packed, GROUP, self.scale_zero)

    def matrix(self) -> Tensor:
        """The weight as it is used, float32 (out, in): what the kernel makes of the unit vectors."""
        unit = torch.eye(self.shape[1], dtype=torch.bfloat16)
        weight = torch._weight_int4pack_mm_for_cpu(unit, self.packed, GROUP, self.scale_zero).float().t()
        return weight if self.columns is None else weight * self.columns

    def __call__(self, x: Tensor) -> Tensor:
        """x W^T. The kernel is good for many rows too."""
        return self._multiply(x).float()

    def added_to(self, total: Tensor, x: Tensor) -> Tensor:
        """total + x W^T."""
        return total + self._multiply(x)

    def tensors(self) -> list[Tensor]:
        """What is stored."""
        return [self.packed, self.scale_zero, *([] if self.columns is None else [self.columns])]


PRODUCTS = {"float32": Float32Product, "bfloat16": BFloat16Product, "int8": Int8Product, "int4": Int4Product}
