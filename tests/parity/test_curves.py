"""Two loss curves, step by step."""

import math

import pytest

from course_lib.errors import CourseError
from course_lib.parity import compare_losses


def test_compare_losses_worked():
    parity = compare_losses([4.0, 3.0, 2.0], [4.0, 3.3, 1.9])
    assert parity.step == 1
    assert parity.absolute == pytest.approx(0.3)
    assert parity.relative == pytest.approx(0.3 / 3.3)
    assert math.isclose(compare_losses([1.0], [1.0]).absolute, 0.0)
    with pytest.raises(CourseError, match="0 and 0 steps"):
        compare_losses([], [])
    with pytest.raises(CourseError, match="3 and 2 steps"):
        compare_losses([1, 2, 3], [1, 2])


def test_what_is_not_a_number_is_the_largest_difference():
    parity = compare_losses([9.0, math.nan, 1.0], [1.0, 2.0, 0.0])
    assert parity.step == 1
    assert math.isnan(parity.absolute)
    assert math.isnan(parity.relative) or parity.relative == math.inf
