"""Block formats: how the packaged weights fit 135 million numbers into 98 MB.

A row of weights is cut into blocks of 32. Each block keeps small integers q and one or two float16 constants, from
which a weight is recovered as w = d q (Q8_0) or w = d q + m (Q4_1). The layouts are those of ggml, the format of
llama.cpp; `gguf.quants` is the reference that the tests hold these functions against.

Left out: the k-quants (Q4_K and the like), whose constants are quantised in turn; chapter 05 does that for NF4.
"""

from collections import Counter
from pathlib import Path

import numpy as np

BLOCK = 32  # weights
# Bits for one weight, from a block's bytes: Q4_1 has 2 (d) + 2 (m) + 16 (32 nibbles) of them, Q8_0 has 2 (d) + 32.
BITS_PER_WEIGHT = {"F32": 32.0, "F16": 16.0, "BF16": 16.0, "Q8_0": 34 * 8 / BLOCK, "Q4_1": 20 * 8 / BLOCK}


def dequantize_q4_1(blocks: np.ndarray) -> np.ndarray:
    """w = d q + m with q in 0..15.

    The low nibbles of the 16 bytes are the block's first 16 weights, the high nibbles its last 16.

    Args:
        blocks: uint8 (n, 20): d and m as float16, then 16 bytes of two nibbles each.

    Returns:
        float32 (n, 32).
    """
    d, m = _float16(blocks[:, 0:2]), _float16(blocks[:, 2:4])
    nibbles = blocks[:, 4:20]
    q = np.concatenate([nibbles & 0x0F, nibbles >> 4], axis=1)  # (n, 32)
    return d * q.astype(np.float32) + m


def dequantize_q8_0(blocks: np.ndarray) -> np.ndarray:
    """w = d q with q in -128..127.

    Args:
        blocks: uint8 (n, 34): d as float16, then 32 bytes.

    Returns:
        float32 (n, 32).
    """
    return _float16(blocks[:, 0:2]) * blocks[:, 2:34].copy().view(np.int8).astype(np.float32)


def _float16(two_bytes: np.ndarray) -> np.ndarray:
    """uint8 (n, 2) -> float32 (n, 1). It copies, since `view` needs the bytes side by side in memory."""
    return two_bytes.copy().view(np.float16).astype(np.float32)


def storage(path: Path | str) -> dict[str, int]:
    """The bytes that a GGUF file spends on each block format, by the format's name, largest first."""
    from gguf import GGUFReader

    spent: Counter[str] = Counter()
    for tensor in GGUFReader(path).tensors:
        spent[tensor.tensor_type.name] += int(tensor.n_bytes)
    return dict(spent.most_common())
