import pytest

from course_lib.training import warmup_cosine


def test_worked_values():
    """Ten steps, four of warm-up: a quarter at a time to 1, then down a cosine to a tenth."""
    factors = [warmup_cosine(step, 10, warmup_steps=4) for step in range(10)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[7] == pytest.approx(0.55)  # half way down: (1 + 0.1) / 2
    assert warmup_cosine(10, 10, warmup_steps=4) == pytest.approx(0.1)
    assert factors[4:] == sorted(factors[4:], reverse=True)
