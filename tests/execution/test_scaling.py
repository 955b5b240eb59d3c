"""Hours, charges, legs and traffic, by arithmetic that can be done by hand."""

import pytest

from course_lib.errors import CourseError
from course_lib.execution.scaling import (
    ACCELERATORS,
    all_reduce_bytes,
    charge,
    checkpoint_interval,
    legs_needed,
    training_hours,
)


def test_hours():
    assert training_hours(3.6e18, 2, 1e15, 0.5) == 1.0
    assert training_hours(3.6e18, 4, 1e15, 0.5) == 0.5


@pytest.mark.parametrize(("devices", "peak", "utilisation"), [(0, 1e15, 0.5), (1, 0, 0.5), (1, 1e15, 0), (1, 1, 1.1)])
def test_impossible_numbers_are_refused(devices, peak, utilisation):
    with pytest.raises(CourseError, match=f"devices = {devices}"):
        training_hours(1e18, devices, peak, utilisation)


def test_tacc_charges_a_quarter_of_an_hour_at_least():
    assert charge(4, 5 / 60, 1.0) == 1.0  # the guide's own example for Vista, by its own formula
    assert charge(2, 3.0, 4.0) == 24.0
    assert charge(1, 0.1, 3.0, jobs=8) == 6.0


@pytest.mark.parametrize(
    ("hours", "limit", "overhead", "legs"), [(47, 48, 0, 1), (48, 48, 0.5, 2), (100, 48, 0, 3), (0, 2, 0, 1)]
)
def test_legs(hours, limit, overhead, legs):
    assert legs_needed(hours, limit, overhead) == legs


def test_legs_without_time_to_train_are_refused():
    with pytest.raises(CourseError, match="leave nothing"):
        legs_needed(10, 0.5, 0.5)


def test_a_ring_sends_less_than_twice_the_vector():
    assert all_reduce_bytes(100, 1) == 0
    assert all_reduce_bytes(100, 2) == 100
    assert all_reduce_bytes(100, 4) == 150
    assert all_reduce_bytes(100, 1000) < 200


def test_youngs_interval_is_where_the_waste_is_least():
    save, mean_time = 60.0, 86_400.0
    best = checkpoint_interval(save, mean_time)
    waste = lambda interval: save / interval + interval / (2 * mean_time)  # noqa: E731
    assert waste(best) < min(waste(0.9 * best), waste(1.1 * best))
    assert best == pytest.approx(3220, abs=1)


def test_each_accelerator_has_a_source():
    assert all(gpu.source and gpu.peak > 1e14 and gpu.memory_gb >= 40 for gpu in ACCELERATORS.values())
