"""The tables by their construction: quantiles, bit fields, and what holds of every kind."""

import math

import pytest
import torch

from course_lib.quantization import QUANT_TYPES, dynamic_map, fp4_levels, int4_levels, nf4_levels
from course_lib.quantization.levels import LEVELS, OFFSET


def normal_distribution(x):
    return (1 + math.erf(x / math.sqrt(2))) / 2


def test_nf4_levels_are_quantiles_with_equal_steps_of_probability():
    """The cumulative function takes the levels back to a straight line, 7 and 8 steps from 1/2 to `OFFSET`."""
    levels = nf4_levels().double()
    assert levels[0] == -1
    assert levels[7] == 0
    assert levels[15] == 1
    largest = 1.8481308  # Q(OFFSET), by bisection on the cumulative function
    low, high = 1.0, 3.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if normal_distribution(middle) < OFFSET else (low, middle)
    assert low == pytest.approx(largest, abs=1e-6)
    probabilities = [normal_distribution(level * low) for level in levels.tolist()]
    below = [(OFFSET - 0.5) / 7] * 7
    above = [(OFFSET - 0.5) / 8] * 8
    steps = [b - a for a, b in zip(probabilities, probabilities[1:], strict=False)]
    assert steps == pytest.approx(below + above, abs=1e-6)  # float32 levels


def test_the_offset_is_half_a_step_from_both_ends():
    assert pytest.approx(1 - (1 / 30 + 1 / 32) / 2, abs=5e-8) == OFFSET


def test_fp4_levels_by_hand():
    """s ee m: 0 01 0 is 2^3, 0 01 1 is 2^3 * 1.5, 0 00 1 is 2^-3 / 2, each over 12; the high bit is the sign."""
    sizes = [0, 1 / 16, 8, 12, 4, 6, 2, 3]
    assert fp4_levels().tolist() == pytest.approx([size / 12 for size in sizes] + [-size / 12 for size in sizes])


def test_int4_levels():
    assert int4_levels().tolist() == pytest.approx([q / 7 for q in range(-7, 8)])


def test_dynamic_map():
    values = dynamic_map()
    assert len(values) == len(values.unique()) == 256
    assert (values.diff() > 0).all()
    positive, negative = values[values > 0], -values[values < 0]
    assert len(positive) == 128
    assert len(negative) == 127
    assert torch.equal(positive[:-1], negative.flip(0))  # only 1 has no counterpart
    # i = 0: one part, whose middle is 0.55 times 1e-6; i = 6: 64 parts of [0.1, 1].
    assert positive[0].item() == pytest.approx(0.55e-6)
    assert positive[-2].item() == pytest.approx(1 - 0.9 / 64 / 2)


def test_every_kind_has_an_exact_zero_and_both_ends():
    assert tuple(LEVELS) == QUANT_TYPES
    for name, make in LEVELS.items():
        levels = make()
        assert levels.dtype == torch.float32, name
        assert 0 in levels, name
        assert (levels.min(), levels.max()) == (-1, 1), name
