"""What an assignment gives for the parts that build on others: its first cell imports it.

An answer that may not use it is refused by `own_work`, as it is for the library's own functions.
"""

import numpy as np

# The 16 levels of NF4 in float32, as bitsandbytes has them (Dettmers et al. 2023, appendix E).
NF4 = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ]
)
NF4.flags.writeable = False  # the checks of several parts give it to answers


def quantized(weight: np.ndarray, block_size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A weight in NF4. A tie between two levels goes to the lower one, as in bitsandbytes.

    Args:
        weight: Any shape, n entries.
        block_size: How many consecutive entries share a constant; the last block may be short.

    Returns:
        packed, uint8 (half of n, rounded up,) with the first code of each pair in the high four bits, and the
        constants, (number of blocks,).
    """
    blocks = np.pad(weight.reshape(-1), (0, -weight.size % block_size)).reshape(-1, block_size)
    absmax = np.abs(blocks).max(axis=1)
    # a block of zeros: any divisor leaves 0
    scaled = (blocks / np.where(absmax > 0, absmax, 1.0)[:, None]).reshape(-1)[: weight.size]
    codes = np.searchsorted((NF4[:-1] + NF4[1:]) / 2, scaled)
    pairs = np.pad(codes, (0, codes.size % 2)).reshape(-1, 2)  # (n / 2, 2)
    return (pairs @ [16, 1]).astype(np.uint8), absmax


def dequantized(packed: np.ndarray, absmax: np.ndarray, shape: tuple[int, ...], block_size: int = 64) -> np.ndarray:
    """The weight that `packed` and `absmax` stand for; the inverse of `quantized`, up to the rounding.

    Args:
        packed: Two codes in each byte, uint8.
        absmax: The constants, (number of blocks,).
        shape: The weight's shape.
        block_size: How many consecutive entries share a constant.

    Returns:
        Floats of the given shape.
    """
    count = int(np.prod(shape))
    levels = NF4[np.stack(np.divmod(packed, 16), axis=-1)].reshape(-1)[:count]
    return (levels * absmax[np.arange(count) // block_size]).reshape(shape)
