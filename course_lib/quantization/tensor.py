"""A weight in 4 bits: blocks with a constant each, and the constants quantised in turn (QLoRA, arXiv:2305.14314).

    c = max of ``|w|`` over a block,    code = the nearest level to w / c,    w ~ level[code] c       (section 2, eq. 1)

One outlier makes the steps of its own block coarse and of no other: that is what blocks are for. Codes, bytes,
constants and dequantised values are those of bitsandbytes, bit for bit; tests/quantization/test_tensor.py says how
that is compared, and scratch/quantization.py does the same in NumPy.

Left out: codes of other widths than 4 bits, and constants for the rows or columns of a matrix.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from course_lib.errors import CourseError
from course_lib.quantization.codes import decode, decode_8bit, encode, encode_8bit
from course_lib.rounding import ceil_div
from course_lib.vocabulary import QUANT_TYPES

NESTED_BLOCK = 256  # constants in a block of double quantisation
SMALLEST = 1e-38  # a block of zeros is divided by this: 0 / 0 would be NaN
CHUNK = 1 << 20  # weights at a time: temporary arrays of a few megabytes, whatever the size of the weight
LEAST_BLOCK = 16


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A tensor of n numbers in 4 bits.

    Attributes:
        packed: uint8 (ceil(n / 2),): two codes in a byte, the first in the high nibble.
        absmax: one constant for each block, (ceil(n / block_size),): float32, or with double quantisation uint8 codes.
        shape: of the tensor. Blocks run over it row by row, and the last one may be shorter.
        quant_type: "nf4", "fp4" or "int4".
        block_size: weights in a block.
        dtype: of the tensor before, which `dequantize` returns to.
        nested_absmax: of double quantisation, float32 (ceil(blocks / 256),): a constant for each 256 constants.
        nested_offset: of double quantisation, float32 (): the mean of the constants.
    """

    packed: Tensor
    absmax: Tensor
    shape: torch.Size
    quant_type: str
    block_size: int
    dtype: torch.dtype
    nested_absmax: Tensor | None = None
    nested_offset: Tensor | None = None

    @property
    def double_quant(self) -> bool:
        """Whether the constants are quantised, too."""
        return self.nested_absmax is not None

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.packed.device

    def numel(self) -> int:
        """How many numbers it stands for."""
        return math.prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """The bytes of the codes and all constants."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    @property
    def bits_per_parameter(self) -> float:
        """4 and the constants' share: 32 / block_size, or with double quantisation 8 / block_size + 32 / (256
        block_size). At block 64 that is 4.5 and 4.127 (section 3 of the paper, where 0.373 bits are saved)."""
        return 8 * self.nbytes / self.numel()

    def constants(self) -> Tensor:
        """The constant of each block, float32 (blocks,): map[code] c2 + mean with double quantisation."""
        if self.nested_absmax is None or self.nested_offset is None:
            return self.absmax
        scales = self.nested_absmax.repeat_interleave(NESTED_BLOCK)[: len(self.absmax)]  # (blocks,)
        return decode_8bit(self.absmax).mul_(scales).add_(self.nested_offset)

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """level[code] c for each number.

        Args:
            dtype: of the result (default: that of the tensor before quantisation). The product is computed in float32
                and rounded once.

        Returns:
            A new tensor of the shape before.
        """
        dtype = dtype or self.dtype
        whole = torch.empty(2 * len(self.packed), dtype=dtype, device=self.device)
        constants, size = self.constants(), _chunk(self.block_size, self.device)
        is_float32 = dtype == torch.float32
        wide = None if is_float32 else torch.empty(min(size, len(whole)), device=self.device)
        for start in range(0, len(whole), size):
            part = whole[start : start + size]
            levels = part if wide is None else wide[: len(part)]
            decode(self.packed[start // 2 : (start + size) // 2], self.quant_type, out=levels)
            _scale_(levels, constants[start // self.block_size :], self.block_size)
            if wide is not None:
                part.copy_(levels)
        return whole[: self.numel()].view(self.shape)

    def to(self, device: torch.device | str) -> "QuantizedTensor":
        """The same numbers on another device."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self._tensors().items()}
        return replace(self, **moved)

    def _tensors(self) -> dict[str, Tensor]:
        """The tensors that it consists of, by their names."""
        fields = {name: getattr(self, name) for name in ("packed", "absmax", "nested_absmax", "nested_offset")}
        return {name: tensor for name, tensor in fields.items() if tensor is not None}


def quantize_4bit(
    weight: Tensor, quant_type: str = "nf4", block_size: int = 64, double_quant: bool = False
) -> QuantizedTensor:
    """Quantise a tensor block by block.

    Args:
        weight: of any shape, in a floating-point dtype.
        quant_type: "nf4", "fp4" or "int4" (see `levels`).
        block_size: weights that share a constant: a power of two, at least 16.
        double_quant: quantise the constants to 8 bits as well. As in bitsandbytes, a block with weights of a hundredth
            of the others' size then loses its scale: leave it out where rows are nearly zero.

    Returns:
        The quantised tensor.

    Raises:
        CourseError: the kind is unknown, the block size is not possible, or the weights cannot be quantised: they are
            no floating-point numbers, there are none, or some are NaN or infinite.

    Example:
        >>> weight = torch.linspace(-1, 1, 128).reshape(2, 64)
        >>> quantized = quantize_4bit(weight)
        >>> quantized.packed.numel()  # two weights in a byte
        64
        >>> (quantized.dequantize() - weight).abs().max().item() < 0.16
        True
    """
    check_kind(quant_type, block_size)
    _check_weight(weight)
    flat = weight.detach().reshape(-1)
    packed = torch.empty((len(flat) + 1) // 2, dtype=torch.uint8, device=flat.device)
    absmax = torch.empty(ceil_div(len(flat), block_size), device=flat.device)
    size = _chunk(block_size, flat.device)
    for start in range(0, len(flat), size):
        part = flat[start : start + size].float()
        scaled, constants = _normalised(part, block_size)
        absmax[start // block_size :][: len(constants)] = constants
        packed[start // 2 :][: len(scaled) // 2] = encode(scaled, quant_type)
    whole = QuantizedTensor(packed, absmax, weight.shape, quant_type, block_size, weight.dtype)
    return _with_nested_constants(whole) if double_quant else whole


def check_kind(quant_type: str, block_size: int) -> None:
    """Check that there is such a kind, and that the block size is a power of two of at least 16.

    Args:
        quant_type: one of `QUANT_TYPES`.
        block_size: weights in a block.

    Raises:
        CourseError: one of the two does not hold.
    """
    if quant_type not in QUANT_TYPES:
        raise CourseError(f"There is no 4-bit kind {quant_type!r}: choose one of {', '.join(QUANT_TYPES)}.")
    is_whole = isinstance(block_size, int) and not isinstance(block_size, bool)
    if not is_whole or block_size < LEAST_BLOCK or block_size & (block_size - 1):
        raise CourseError(
            f"A block of {block_size!r} weights is not possible: choose a power of two of at least {LEAST_BLOCK}, "
            "such as 64."
        )


def _check_weight(weight: Tensor) -> None:
    """CourseError where there is nothing to quantise in the tensor."""
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        what = f"a tensor of {weight.dtype}" if isinstance(weight, Tensor) else type(weight).__name__
        raise CourseError(
            f"Only floating-point weights can be quantised, and this is {what}: pass the float weights; if they "
            "are quantised already, dequantise them first."
        )
    if weight.is_meta or not weight.numel():
        what = "is on the meta device" if weight.is_meta else f"has the shape {tuple(weight.shape)}"
        raise CourseError(f"This weight {what} and holds no numbers to quantise: load the model's weights first.")


def _chunk(block_size: int, device: torch.device) -> int:
    """Weights at a time, a whole number of blocks. A GPU takes all at once: there, each launch costs time."""
    return max(CHUNK, block_size) if device.type == "cpu" else 1 << 62


def _normalised(part: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Each block divided by its constant, float32 (n,) padded to an even number, and the constants (blocks,)."""
    full = len(part) // block_size * block_size
    blocks, rest = part[:full].view(-1, block_size), part[full:]
    constants = blocks.abs().amax(dim=1)  # NaN and infinity stay what they are, so that checking these is enough
    # bitsandbytes multiplies full blocks by 1 / c and divides a short last one by c, at least 1e-38: the results may
    # differ in the last bit, and then so does the nearest level of a number in the middle between two.
    scaled = (blocks * (1 / constants.clamp(min=SMALLEST))[:, None]).view(-1)
    if len(rest):
        last = rest.abs().amax().clamp(min=SMALLEST)
        constants = torch.cat([constants, last[None]])
        odd = scaled.new_zeros(len(rest) % 2)
        scaled = torch.cat([scaled, rest / last, odd])
    if not constants.isfinite().all():
        raise CourseError(
            "The weights hold NaN or infinity, which no level stands for: find out where the model's weights broke, "
            "or load it again."
        )
    return scaled, constants


def _with_nested_constants(whole: QuantizedTensor) -> QuantizedTensor:
    """Double quantisation (section 3): the constants minus their mean, in 8 bits, in blocks of 256.

    The constants are positive and nearly equal. Without their mean they are centred at zero, where the dynamic map has
    its finest values. A constant that is far smaller than the mean is then the difference of two large numbers, and
    comes back with an error of some thousandths of the mean.
    """
    offset = whole.absmax.mean()
    centred = whole.absmax - offset  # (blocks,)
    padded = torch.nn.functional.pad(centred, (0, -len(centred) % NESTED_BLOCK)).view(-1, NESTED_BLOCK)
    scales = padded.abs().amax(dim=1)  # (blocks / 256,)
    is_zero = scales == 0  # all 256 constants are equal to the mean
    codes = encode_8bit((padded / scales.masked_fill(is_zero, 1)[:, None]).view(-1)).view(-1, NESTED_BLOCK)
    codes = codes.masked_fill_(is_zero[:, None], 0).view(-1)[: len(centred)]  # any code would do: bitsandbytes has 0
    return replace(whole, absmax=codes, nested_absmax=scales, nested_offset=offset)


def _scale_(levels: Tensor, constants: Tensor, block_size: int) -> None:
    """Multiply each block by its constant, in place.

    Args:
        levels: float32 (n,), starting with a block.
        constants: float32, from that block on.
        block_size: numbers in a block.
    """
    count, rest = divmod(len(levels), block_size)
    levels[: count * block_size].view(-1, block_size).mul_(constants[:count, None])
    if rest:
        levels[count * block_size :].mul_(constants[count])
