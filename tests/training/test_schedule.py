import pytest

from course_lib.training import warmup_cosine
from course_lib.training.schedule import warmup_linear


def test_worked_values():
    """Ten steps, four of warm-up: a quarter at a time to 1, then down a cosine to a tenth."""
    factors = [warmup_cosine(step, 10, warmup_steps=4) for step in range(10)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[7] == pytest.approx(0.55)  # half way down: (1 + 0.1) / 2
    assert warmup_cosine(10, 10, warmup_steps=4) == pytest.approx(0.1)
    assert factors[4:] == sorted(factors[4:], reverse=True)


@pytest.mark.parametrize("schedule", [warmup_cosine, warmup_linear])
def test_a_warm_up_of_all_steps_ends_low_too(schedule):
    """Four steps up to the peak, and none down: behind the last step is the lowest rate, as for any other run."""
    assert [schedule(step, 4, 4, 0.2) for step in range(4)] == [0.25, 0.5, 0.75, 1]
    assert [schedule(step, 4, 4, 0.2) for step in (4, 5)] == pytest.approx([0.2, 0.2])
