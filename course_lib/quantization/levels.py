"""The values that 4 bits can stand for: NF4, FP4 and INT4; and the 256 values of the 8-bit dynamic map.

A block of weights is divided by its largest absolute value, so that it lies in [-1, 1], and each weight becomes the
number of the nearest level: its code. Every table here is derived, and no value is typed in.
tests/quantization/test_levels.py compares them with bitsandbytes' tables bit for bit.

Left out: the AbnormalFloat of arXiv:2306.06965, and FP8.
"""

from collections.abc import Callable
from statistics import NormalDist

import torch
from torch import Tensor

from course_lib.vocabulary import QUANT_TYPES

# The outermost probability of NF4: 1 - (1/30 + 1/32) / 2, the mean of half a step from the end on a side of 15 and
# on one of 16 steps. bitsandbytes rounds it to seven digits, and the last bits of the levels depend on that.
OFFSET = 0.9677083


def nf4_levels() -> Tensor:
    """NormalFloat, section 3 of QLoRA (Dettmers et al. 2023, arXiv:2305.14314): quantiles of N(0, 1).

    A trained layer's weights are close to normal. Levels that lie at quantiles of the normal distribution are used
    equally often, and no code is wasted. With Q the normal distribution's inverse cumulative function (the quantile
    function), a side with k levels has

        Q(p_i),    p_i on a straight line from `OFFSET` to 1/2, i = 0 ... k - 1

    The line would end in Q(1/2) = 0, which is left out and put in once for both sides: zero must be exact, since
    padding and pruned weights are zeros. The positive side has 8 levels and the negative one 7, with the zero 16.
    Finally, all are divided by the largest, so that they lie in [-1, 1].

    Returns:
        float32 (16,), ascending. The code of a level is its index; zero has the code 7.
    """
    quantile = NormalDist().inv_cdf
    positive = [quantile(p) for p in _line(OFFSET, 0.5, 9)[:-1].tolist()]
    negative = [-quantile(p) for p in _line(OFFSET, 0.5, 8)[:-1].tolist()]
    levels = torch.tensor([*negative, 0.0, *positive]).sort().values
    return levels / levels.max()


def _line(start: float, end: float, count: int) -> Tensor:
    """`count` equally spaced float32 numbers, where each half counts from its own end.

    bitsandbytes' table was computed from such a line: in float64 some levels differ in their last bit. torch.linspace
    is not asked, since its last bits depend on the processor's vectors.
    """
    first, last = torch.tensor(start), torch.tensor(end)
    step = (last - first) / (count - 1)
    i = torch.arange(count)
    return torch.where(i < count / 2, first + step * i, last - step * (count - 1 - i))


def fp4_levels() -> Tensor:
    """A float of 4 bits, s ee m: one sign bit, two exponent bits, one mantissa bit, as bitsandbytes reads them.

        (-1)^s * 2^(4 - e) * (1 + m / 2)    for e = 1, 2, 3
        (-1)^s * 2^-3 * (m / 2)             for e = 0

    Unlike in IEEE 754 a larger exponent field means a smaller number, and e = 0 is far below the rest. The absolute
    values are 0, 1/16, 2, 3, 4, 6, 8 and 12, which are divided by 12. The code 8 (s = 1, the rest 0) is a second zero.

    Returns:
        float32 (16,), in the order of the codes, which is not ascending.
    """
    levels = []
    for code in range(16):
        sign, exponent, mantissa = code >> 3, code >> 1 & 0b11, code & 1
        size = 2.0 ** (4 - exponent) * (1 + mantissa / 2) if exponent else 2.0**-3 * mantissa / 2
        levels.append(-size if sign and size else size)
    return torch.tensor(levels) / 12


def int4_levels() -> Tensor:
    """Equal steps: -7 ... 7, divided by 7.

    The sixteenth code stays unused, so that zero is exact and both sides reach as far. bitsandbytes lacks this kind.

    Returns:
        float32 (15,), ascending. The code of level q / 7 is q + 7.
    """
    return torch.arange(-7, 8) / 7


def dynamic_map() -> Tensor:
    """The 256 values of the signed 8-bit dynamic type (Dettmers 2016, arXiv:1511.04561, section 3).

    After the sign, the number of zero bits gives a power of ten, a one bit ends them, and the bits that are left are
    a fraction. With i = 0 ... 6 the factor is 10^(i - 6), and 2^i fractions divide [0.1, 1] into equal parts, whose
    middles are the values. So small numbers have a large range, and large ones have fine steps. Zero and one complete
    the 2 * 127 values.

    Returns:
        float32 (256,), ascending from -0.993 to 1.
    """
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1)  # bitsandbytes' own call, for the same last bits on every processor
        middles = (edges[:-1] + edges[1:]) / 2
        scaled = 10.0 ** (i - 6) * middles
        values += [*scaled.tolist(), *(-scaled).tolist()]
    return torch.tensor(values).sort().values


LEVELS: dict[str, Callable[[], Tensor]] = dict(zip(QUANT_TYPES, (nf4_levels, fp4_levels, int4_levels), strict=True))
