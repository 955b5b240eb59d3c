"""From numbers in [-1, 1] to codes and back, with tables in place of searches.

torch.searchsorted finds the nearest level by halving the list of levels, number by number: 20 to 40 ns for each on a
CPU. Both directions below only look things up in small tables, which takes a few nanoseconds and below one.
tests/quantization/test_tensor.py compares them with the search, also at the boundaries and their neighbours.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from course_lib.quantization.levels import LEVELS, dynamic_map

CELLS = 1024  # equal parts of [-1, 1], so narrow that no part holds two boundaries between levels
MARGIN = 2.0**-20  # more than the rounding of a cell's number can move its edge


@dataclass(frozen=True, eq=False)
class Codebook:
    """The tables of one kind of 4-bit numbers, on one device.

    Attributes:
        boundaries: float32 (16,): the middle between each level and the next larger one; infinity behind the last.
        start: int32 (CELLS + 1,): the rank of the smallest number in each cell, counting levels from the smallest.
        code_bytes: uint8 (256,): two codes in a byte, from two ranks in a byte; None where a code is its rank.
        pairs: float64 (256,): for each byte its two levels, two float32 read as one number of 8 bytes.
    """

    boundaries: Tensor
    start: Tensor
    code_bytes: Tensor | None
    pairs: Tensor


@lru_cache(maxsize=16)
def codebook(quant_type: str, device: torch.device) -> Codebook:
    """The tables of a kind, made once for each device.

    Args:
        quant_type: one of `QUANT_TYPES`.
        device: where the tables lie.

    Returns:
        The tables.
    """
    levels = LEVELS[quant_type]()
    ranked, order = levels.sort(stable=True)  # rank -> level, rank -> code
    boundaries = torch.full((16,), torch.inf)
    boundaries[: len(levels) - 1] = (ranked[:-1] + ranked[1:]) / 2
    edges = torch.arange(CELLS + 1, dtype=torch.float32) * (2 / CELLS) - 1  # the lower edge of each cell
    # A number on a boundary belongs to the level below it, as in bitsandbytes.
    start = torch.searchsorted(boundaries, edges - MARGIN)
    end = torch.searchsorted(boundaries, edges + 2 / CELLS + MARGIN)
    assert int((end - start).max()) <= 1, "a cell holds two boundaries: choose more CELLS"
    is_ranked = bool((order == torch.arange(len(order))).all())
    code_bytes = None if is_ranked else (order[:, None] << 4 | order).flatten().to(torch.uint8)
    padded = torch.zeros(16)
    padded[: len(levels)] = levels
    pairs = torch.stack([padded.repeat_interleave(16), padded.repeat(16)], dim=1)  # (256, 2): high and low nibble
    return Codebook(
        boundaries.to(device),
        start.to(device, torch.int32),
        None if code_bytes is None else code_bytes.to(device),
        pairs.view(torch.float64).flatten().to(device),
    )


def encode(x: Tensor, quant_type: str) -> Tensor:
    """The nearest level's code for each number, two in a byte: the first in the high nibble, as bitsandbytes has it.

    Args:
        x: float32 (n,), in [-1, 1] but for rounding, with n even.
        quant_type: one of `QUANT_TYPES`.

    Returns:
        uint8 (n / 2,).
    """
    table = codebook(quant_type, x.device)
    cells = x.mul(CELLS / 2).add_(CELLS / 2).to(torch.int32)  # (n,): which part of [-1, 1] each number lies in
    ranks = table.start.index_select(0, cells)  # right, or one too small: a cell holds at most one boundary
    ranks += x > table.boundaries.index_select(0, ranks)
    ranks = ranks.to(torch.uint8)
    packed = ranks[0::2] << 4 | ranks[1::2]  # (n / 2,)
    if table.code_bytes is not None:
        packed = table.code_bytes.index_select(0, packed.to(torch.int32))
    return packed


def decode(packed: Tensor, quant_type: str, out: Tensor) -> Tensor:
    """The levels that the codes stand for.

    Args:
        packed: uint8 (n / 2,).
        quant_type: one of `QUANT_TYPES`.
        out: float32 (n,), contiguous, to write the levels into.

    Returns:
        `out`.
    """
    pairs = codebook(quant_type, packed.device).pairs
    # One look-up a byte: index_select copies single numbers four times as fast as rows of two, so a pair of float32
    # travels as one float64. It is copied and never computed with.
    torch.index_select(pairs, 0, packed.to(torch.int32), out=out.view(torch.float64))
    return out


GRID = 65535  # equal steps over [-1, 1] that bitsandbytes rounds to before it looks up the nearest of 256 values


@lru_cache(maxsize=8)
def _dynamic_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """The dynamic map, float32 (256,), and the nearest value's index for each point of the grid, uint8 (GRID + 1,)."""
    values = dynamic_map()
    points = (torch.arange(GRID + 1, dtype=torch.float64) * (2 / GRID) - 1).to(torch.float32)
    nearest = torch.searchsorted((values[:-1] + values[1:]) / 2, points)
    return values.to(device), nearest.to(torch.uint8).to(device)


def encode_8bit(x: Tensor) -> Tensor:
    """The nearest value of the dynamic map for each number, rounded to the grid first, as bitsandbytes does it.

    So a number that lies nearly in the middle between two values may get the farther one. It is farther by at most
    2 / GRID, one step of the grid.

    Args:
        x: float32 (n,), in [-1, 1].

    Returns:
        uint8 (n,): indices into the map.
    """
    _, nearest = _dynamic_tables(x.device)
    points = x.add(1).mul_(GRID / 2).add_(0.5).to(torch.int32)  # (n,): cutting off after adding a half rounds
    return nearest.index_select(0, points)


def decode_8bit(codes: Tensor) -> Tensor:
    """The values of the dynamic map: uint8 (n,) -> float32 (n,)."""
    values, _ = _dynamic_tables(codes.device)
    return values.index_select(0, codes.to(torch.int32))
