"""Matrix products for decoding: x W^T with W in float32, bfloat16, eight or four bits.

The pass of one token reads every weight once and does two operations with it, so its cost is the time to read the
weights. Each class packs a matrix once and multiplies by it often. torch's kernels for eight and four bits are fast
only with bfloat16 inputs: in torch 2.13, with float32 inputs they fall back to a loop that is ten to a hundred times
slower. So x is rounded to bfloat16 for them; inside, the sums run in float32.

The weights of a norm come before the matrix: W (w * n) = (W diag(w)) n. They are multiplied into W once. Four bits are
the exception, because there neighbours share a scale, and columns of unlike size would spoil it. SmolLM2's packaged
weights come from a file of four bits in groups of 32, so packing them again costs only 0.0002 nats per token; with the
norms multiplied in, it was 0.3. Weights that were never in four bits lose more.

Shapes: x is (rows, in), W is (out, in), the result is (rows, out) in float32; x is multiplied by `columns` (in,).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.errors import CourseError
from course_lib.models import onednn

GROUP = 32  # numbers that share a scale and an offset, in four bits
ROWS = 16  # in four bits, the kernel takes rows by this many
ROWS_AT_ONCE = 4096  # while a matrix is packed
MANY_ROWS = 16  # from this many rows on, a matrix is unpacked first: the kernels for few rows would be slower


def _scaled(weight: Tensor, columns: Tensor | None) -> Iterator[Tensor]:
    """W diag(columns) in float32, some rows at a time: a vocabulary's matrix takes 0.1 GB, and so does each copy."""
    for rows in weight.detach().split(ROWS_AT_ONCE):  # (ROWS_AT_ONCE or fewer, in)
        yield rows.float() if columns is None else rows.float() * columns


class Float32Product:
    """W in float32, as oneDNN packs it: see `course_lib.models.onednn`.

    Args:
        weight: W, (out, in).
        columns: what x is multiplied by, (in,); None stands for ones.

    Example:
        >>> product = Float32Product(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> product(torch.tensor([[1.0, 0.0]]))
        tensor([[1., 3.]])
        >>> product.added_to(torch.tensor([[10.0, 10.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([[11., 13.]])
    """

    def __init__(self, weight: Tensor, columns: Tensor | None = None):
        self.stored = _Stored(_scaled(weight, columns), onednn.has_onednn())

    def __call__(self, x: Tensor) -> Tensor:
        """x W^T."""
        return self.stored.times(x)

    def added_to(self, total: Tensor, x: Tensor) -> Tensor:
        """total + x W^T, in one operation where W is in one piece.

        Args:
            total: (rows, out).
            x: (rows, in).

        Returns:
            (rows, out).
        """
        pieces = self.stored.pieces
        return onednn.added(total, x, pieces[0]) if len(pieces) == 1 else total + self(x)

    def for_compiler(self) -> None:
        """Store it as torch.compile can read it, before `one_row` is called; the other methods give the same."""
        self.stored.unpack()

    def one_row(self, x: Tensor) -> Tensor:
        """x W^T for one row of x, written as a sum: torch.compile makes one loop of it."""
        return (self.stored.rows * x).sum(dim=-1)[None]  # (out, in) * (1, in) -> (1, out)

    def matrix(self) -> Tensor:
        """The weight as it is used, float32 (out, in)."""
        return self.stored.matrix()

    def tensors(self) -> list[Tensor]:
        """The tensors that hold the matrix."""
        return self.stored.tensors()


class _Stored:
    """A matrix of numbers that are not packed in fewer bits: in pieces of oneDNN's, or as it is.

    Args:
        rows: W, some rows at a time.
        packed: whether oneDNN packs it.
    """

    def __init__(self, rows: Iterable[Tensor], packed: bool):
        self.pieces = [onednn.pack(some) for some in rows] if packed else []  # (ROWS_AT_ONCE, in) each
        self.rows = torch.empty(0) if packed else torch.cat(list(rows))  # (out, in)

    def times(self, x: Tensor) -> Tensor:
        """x W^T; x has the dtype of W."""
        if not self.pieces:
            faster = x.dtype == torch.float32 and onednn.is_faster()
            return onednn.linear(x, self.rows) if faster else F.linear(x, self.rows)
        results = [onednn.linear(x, piece) for piece in self.pieces]
        return results[0] if len(results) == 1 else torch.cat(results, dim=-1)

    def matrix(self) -> Tensor:
        """W, (out, in)."""
        return torch.cat([piece.to_dense() for piece in self.pieces]) if self.pieces else self.rows

    def unpack(self) -> None:
        """Keep it as it is from now on."""
        self.rows, self.pieces = self.matrix(), []

    def tensors(self) -> list[Tensor]:
        """The tensors that hold it."""
        return self.pieces or [self.rows]


class _Packed(ABC):
    """A product with inputs in bfloat16 and its sum in float32."""

    @abstractmethod
    def _multiply(self, x: Tensor) -> Tensor:
        """x W^T for few rows; input and result are bfloat16."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """The weight as it is used, float32 (out, in)."""

    def for_compiler(self) -> None:  # noqa: B027 - most formats have nothing to do
        """Store it as torch.compile can read it, before `one_row` is called."""

    def one_row(self, x: Tensor) -> Tensor:
        """x W^T for one row of x, as torch.compile should have it: where a format has nothing better, its kernel."""
        return self(x)

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
    """W rounded to bfloat16, which takes half the bytes, and packed by oneDNN where it can.

    Args:
        weight: W, (out, in).
        columns: as for `Float32Product`.
    """

    def __init__(self, weight: Tensor, columns: Tensor | None = None):
        rows = (some.bfloat16() for some in _scaled(weight, columns))
        self.stored = _Stored(rows, onednn.has_bfloat16())

    def _multiply(self, x: Tensor) -> Tensor:
        return self.stored.times(x)

    def __call__(self, x: Tensor) -> Tensor:
        """x W^T. This matrix need not be unpacked for many rows."""
        return self._multiply(x.bfloat16()).float()

    def for_compiler(self) -> None:
        """As for `Float32Product`."""
        self.stored.unpack()

    def one_row(self, x: Tensor) -> Tensor:
        """x W^T as a sum; x is not rounded."""
        return (self.stored.rows.float() * x).sum(dim=-1)[None]

    def matrix(self) -> Tensor:
        """The weight as it is used, float32 (out, in)."""
        return self.stored.matrix().float()

    def tensors(self) -> list[Tensor]:
        """The tensors that hold the matrix."""
        return self.stored.tensors()


class Int8Product(_Packed):
    """W in eight bits, with a scale for each row: w = q * scale, scale = the largest absolute value of the row / 127.

    The kernel is `torch._weight_int8pack_mm`.

    Args:
        weight: W, (out, in).
        columns: as for `Float32Product`.

    Example:
        >>> Int8Product(torch.tensor([[127.0, -64.0, 0.4]])).matrix()
        tensor([[127., -64.,   0.]])
    """

    def __init__(self, weight: Tensor, columns: Tensor | None = None):
        q, scales = zip(*(_in_eight_bits(rows) for rows in _scaled(weight, columns)), strict=True)
        self.q, self.scales = torch.cat(q), torch.cat(scales)  # (out, in) and (out,)

    def _multiply(self, x: Tensor) -> Tensor:
        return torch._weight_int8pack_mm(x, self.q, self.scales)

    def one_row(self, x: Tensor) -> Tensor:
        """x W^T as a sum; x is not rounded."""
        return ((self.q.float() * x).sum(dim=-1) * self.scales.float())[None]

    def matrix(self) -> Tensor:
        """The weight as it is used, float32 (out, in)."""
        return self.q.float() * self.scales.float()[:, None]

    def tensors(self) -> list[Tensor]:
        """The tensors that hold the matrix."""
        return [self.q, self.scales]


def _in_eight_bits(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of W, float32 (some, in), as int8 (some, in) and a scale for each, bfloat16 (some,)."""
    scales = (rows.abs().amax(dim=1).clamp(min=1e-30) / 127).bfloat16()
    return (rows / scales.float()[:, None]).round().clamp(-127, 127).to(torch.int8), scales


class Int4Product(_Packed):
    """W in four bits. Every 32 neighbours in a row share a scale and an offset: w = (q - 8) * scale + zero.

    The smallest of the 32 gets q = 0 and the largest q = 15, so scale = (max - min) / 15 and zero = min + 8 * scale.
    The kernel is `torch._weight_int4pack_mm_for_cpu`.

    Args:
        weight: W, (out, in); `in` has to be divisible by 32, and `out` by 16.
        columns: what x is multiplied by, (in,), kept beside the matrix; None stands for ones.

    Raises:
        CourseError: the sizes of W are not divisible by these numbers.
    """

    def __init__(self, weight: Tensor, columns: Tensor | None = None):
        rows, width = weight.shape
        self.columns = columns
        if width % GROUP or rows % ROWS:
            raise CourseError(
                f"A matrix of {rows} x {width} cannot be packed in four bits: {GROUP} has to divide its {width} "
                f"columns, and {ROWS} its {rows} rows. Use int8 or bfloat16 for this model."
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
        """The weight as it is used, float32 (out, in): the kernel's results for the unit vectors."""
        unit = torch.eye(self.shape[1], dtype=torch.bfloat16)
        weight = torch._weight_int4pack_mm_for_cpu(unit, self.packed, GROUP, self.scale_zero).float().t()
        return weight if self.columns is None else weight * self.columns

    def __call__(self, x: Tensor) -> Tensor:
        """x W^T. This kernel is also fast for many rows."""
        return self._multiply(x).float()

    def added_to(self, total: Tensor, x: Tensor) -> Tensor:
        """total + x W^T.

        Args:
            total: (rows, out).
            x: (rows, in).

        Returns:
            (rows, out).
        """
        return total + self._multiply(x)

    def tensors(self) -> list[Tensor]:
        """The tensors that hold the matrix."""
        return [self.packed, self.scale_zero, *([] if self.columns is None else [self.columns])]


PRODUCTS = {"float32": Float32Product, "bfloat16": BFloat16Product, "int8": Int8Product, "int4": Int4Product}
