"""Weights in 4 bits, in NumPy: NF4 with double quantisation (QLoRA, Dettmers et al. 2023, arXiv:2305.14314).

The same numbers as `course_lib.quantization`, written for reading: a search in place of its tables, and whole arrays in
place of pieces. tests/scratch/test_quantization.py holds both against each other, bit for bit. With double quantisation
the last bit may differ: torch adds in another order, and its `linspace` depends on the processor's vectors.

Left out: the layer that computes with such a weight, which is W = `dequantize_4bit` and x W^T.
"""

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

OFFSET = 0.9677083  # the outermost probability of NF4, 1 - (1/30 + 1/32) / 2
NESTED_BLOCK = 256  # constants in a block of double quantisation
GRID = 65535  # equal steps over [-1, 1] that constants are rounded to before the nearest of 256 values is looked up
SMALLEST = np.float32(1e-38)  # a block of zeros is divided by this: 0 / 0 would be NaN


def nf4_levels() -> np.ndarray:
    """The 16 levels of NormalFloat: quantiles of N(0, 1), with an exact zero, divided by the largest (section 3).

    With Q the quantile function and p on a straight line from `OFFSET` to 1/2, the positive side has Q(p) for 8 values
    of p and the negative one -Q(p) for 7. Q(1/2) = 0 is put in once.

    Returns:
        float32 (16,), ascending. A level's index is its code.
    """
    quantile = NormalDist().inv_cdf
    positive = [quantile(p) for p in _line(OFFSET, 0.5, 9)[:-1]]
    negative = [-quantile(p) for p in _line(OFFSET, 0.5, 8)[:-1]]
    levels = np.sort(np.array([*negative, 0.0, *positive], dtype=np.float32))
    return levels / levels.max()


def fp4_levels() -> np.ndarray:
    """The 16 values of a float with the bits s ee m: 2^(4 - e) (1 + m / 2), or 2^-3 m / 2 where e = 0; over 12.

    Returns:
        float32 (16,), in the order of the codes, which is not ascending.
    """
    code = np.arange(16)
    sign, e, m = code >> 3, code >> 1 & 0b11, code & 1
    size = np.where(e == 0, 2.0**-3 * m / 2, 2.0 ** (4 - e) * (1 + m / 2))
    return np.where((sign == 1) & (size > 0), -size, size).astype(np.float32) / np.float32(12)


def int4_levels() -> np.ndarray:
    """-7 ... 7, divided by 7: float32 (15,). The sixteenth code is not used."""
    return np.arange(-7, 8, dtype=np.float32) / np.float32(7)


def dynamic_map() -> np.ndarray:
    """The 256 values of the 8-bit dynamic type (arXiv:1511.04561), float32, ascending from -0.993 to 1.

    For i = 0 ... 6, 2^i parts of [0.1, 1] have their middles times 10^(i - 6), on both sides; and there are 0 and 1.
    """
    values = [np.array([0.0, 1.0], dtype=np.float32)]
    for i in range(7):
        edges = _line(0.1, 1.0, 2**i + 1)
        middles = (edges[:-1] + edges[1:]) / np.float32(2)
        values += [np.float32(10.0 ** (i - 6)) * middles, -np.float32(10.0 ** (i - 6)) * middles]
    return np.sort(np.concatenate(values))


def _line(start: float, end: float, count: int) -> np.ndarray:
    """`count` equally spaced float32 numbers as torch computes them: each half counts from its own end.

    In float64 some levels would differ from bitsandbytes' in their last bit.
    """
    first, last = np.float32(start), np.float32(end)
    step = (last - first) / np.float32(count - 1)
    i = np.arange(count, dtype=np.float32)
    return np.where(i < count / 2, first + step * i, last - step * (count - 1 - i)).astype(np.float32)


LEVELS = {"nf4": nf4_levels, "fp4": fp4_levels, "int4": int4_levels}


@dataclass(frozen=True, eq=False)
class Quantized4bit:
    """An array of n numbers in 4 bits.

    Attributes:
        packed: uint8 (ceil(n / 2),): two codes in a byte, the first in the high nibble.
        absmax: a constant for each block: float32, or with double quantisation uint8 codes.
        shape: of the array. Blocks run over it row by row, and the last one may be shorter.
        quant_type: "nf4", "fp4" or "int4".
        block_size: numbers in a block.
        nested_absmax: of double quantisation, a float32 constant for each 256 constants; None without it.
        nested_offset: of double quantisation, the mean of the constants.
    """

    packed: np.ndarray
    absmax: np.ndarray
    shape: tuple[int, ...]
    quant_type: str
    block_size: int
    nested_absmax: np.ndarray | None = None
    nested_offset: np.float32 | None = None

    @property
    def bits_per_parameter(self) -> float:
        """4 bits and the constants' share."""
        nested = 0 if self.nested_absmax is None else self.nested_absmax.nbytes + 4
        return 8 * (self.packed.nbytes + self.absmax.nbytes + nested) / int(np.prod(self.shape))


def quantize_4bit(
    weight: np.ndarray, quant_type: str = "nf4", block_size: int = 64, double_quant: bool = False
) -> Quantized4bit:
    """Each block divided by its largest absolute value, and each number replaced by the code of the nearest level.

    Args:
        weight: floating-point numbers, of any shape.
        quant_type: "nf4", "fp4" or "int4".
        block_size: numbers that share a constant: a power of two, at least 16.
        double_quant: quantise the constants to 8 bits as well.

    Returns:
        The array in 4 bits.

    Raises:
        ValueError: there is no such kind or block size, or the weights are not finite floating-point numbers.
    """
    weight = np.asarray(weight)
    _check(weight, quant_type, block_size)
    flat = weight.astype(np.float32).reshape(-1)  # (n,)
    full = len(flat) // block_size * block_size
    blocks, rest = flat[:full].reshape(-1, block_size), flat[full:]
    absmax = np.abs(blocks).max(axis=1)  # (blocks,)
    scaled = (blocks * (1 / np.maximum(absmax, SMALLEST))[:, None]).reshape(-1)
    if len(rest):  # the last, shorter block; bitsandbytes divides here
        last = np.maximum(np.abs(rest).max(), SMALLEST)
        absmax, scaled = np.append(absmax, last), np.append(scaled, rest / last)
    codes = _nearest_codes(np.append(scaled, np.zeros(len(scaled) % 2, np.float32)), LEVELS[quant_type]())
    packed = codes[0::2] << 4 | codes[1::2]  # (ceil(n / 2),)
    quantized = Quantized4bit(packed, absmax, weight.shape, quant_type, block_size)
    return _with_nested_constants(quantized) if double_quant else quantized


def _check(weight: np.ndarray, quant_type: str, block_size: int) -> None:
    if quant_type not in LEVELS:
        raise ValueError(f"There is no 4-bit kind {quant_type!r}: choose one of {', '.join(LEVELS)}.")
    if not isinstance(block_size, int | np.integer) or block_size < 16 or block_size & (block_size - 1):
        raise ValueError(f"A block of {block_size!r} weights is not possible: a power of two of at least 16.")
    if not np.issubdtype(weight.dtype, np.floating) or not weight.size or not np.isfinite(weight).all():
        raise ValueError(
            f"weight is an array of {weight.dtype} with the shape {weight.shape}: it has to hold floating-point "
            "numbers, at least one, and all of them finite."
        )


def _nearest_codes(x: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """uint8: the code of the nearest level for each number in [-1, 1]; in the middle between two, of the smaller."""
    order = np.argsort(levels, kind="stable")  # rank -> code
    ranked = levels[order]
    boundaries = (ranked[:-1] + ranked[1:]) / np.float32(2)
    return order[np.searchsorted(boundaries, x)].astype(np.uint8)


def _with_nested_constants(quantized: Quantized4bit) -> Quantized4bit:
    """Double quantisation: the constants minus their mean, in 8 bits, in blocks of 256 (section 3)."""
    offset = quantized.absmax.mean(dtype=np.float64).astype(np.float32)
    centred = quantized.absmax - offset
    padded = np.append(centred, np.zeros(-len(centred) % NESTED_BLOCK, np.float32)).reshape(-1, NESTED_BLOCK)
    scales = np.abs(padded).max(axis=1)  # (blocks / 256,)
    scaled = padded / np.where(scales == 0, np.float32(1), scales)[:, None]
    values = dynamic_map()
    points = ((scaled + 1) * np.float32(GRID / 2) + np.float32(0.5)).astype(np.int32)  # rounded to the grid
    on_grid = (points * (2 / GRID) - 1).astype(np.float32)
    codes = np.searchsorted((values[:-1] + values[1:]) / np.float32(2), on_grid).astype(np.uint8)
    codes[scales == 0] = 0
    return replace(quantized, absmax=codes.reshape(-1)[: len(centred)], nested_absmax=scales, nested_offset=offset)


def dequantize_4bit(quantized: Quantized4bit) -> np.ndarray:
    """level[code] times the block's constant, for each number: float32, in the shape before."""
    levels = LEVELS[quantized.quant_type]()
    codes = np.stack([quantized.packed >> 4, quantized.packed & 0x0F], axis=1).reshape(-1)  # high nibble first
    count = int(np.prod(quantized.shape))
    constants = np.repeat(_constants(quantized), quantized.block_size)[:count]
    return (levels[codes[:count]] * constants).reshape(quantized.shape)


def _constants(quantized: Quantized4bit) -> np.ndarray:
    """The constant of each block, float32."""
    if quantized.nested_absmax is None:
        return quantized.absmax
    scales = np.repeat(quantized.nested_absmax, NESTED_BLOCK)[: len(quantized.absmax)]
    return dynamic_map()[quantized.absmax] * scales + quantized.nested_offset
