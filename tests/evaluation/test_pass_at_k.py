"""pass@k against enumeration of all draws."""

from itertools import combinations

import numpy as np
import pytest

from course_lib.errors import CourseError
from course_lib.evaluation.pass_at_k import mean_pass_at_k, pass_at_k


@pytest.mark.parametrize("samples", range(1, 8))
def test_it_is_the_share_of_all_draws_with_a_right_answer(samples):
    for right in range(samples + 1):
        answers = [True] * right + [False] * (samples - right)
        for k in range(1, samples + 1):
            draws = [any(draw) for draw in combinations(answers, k)]
            assert pass_at_k(samples, right, k) == pytest.approx(sum(draws) / len(draws), abs=1e-12)


def test_it_is_unbiased_and_the_plug_in_is_not():
    """Over all outcomes of 5 answers that are right with chance 0.3, weighted by their chances, with k = 3."""
    chance, samples, k = 0.3, 5, 3
    outcomes = [np.array([number >> bit & 1 for bit in range(samples)]) for number in range(2**samples)]
    weights = [chance ** o.sum() * (1 - chance) ** (samples - o.sum()) for o in outcomes]
    mean = sum(w * pass_at_k(samples, int(o.sum()), k) for w, o in zip(weights, outcomes, strict=True))
    plug_in = sum(w * (1 - (1 - o.mean()) ** k) for w, o in zip(weights, outcomes, strict=True))
    assert mean == pytest.approx(1 - 0.7**3, abs=1e-12)
    assert plug_in < mean - 0.05


def test_worked_and_averaged():
    assert pass_at_k(4, 1, 2) == 0.5
    assert pass_at_k(10_000, 1, 1) == pytest.approx(1e-4, rel=1e-9)
    assert mean_pass_at_k([[True, False], [False, False, False, True]], 2) == pytest.approx((1 + 0.5) / 2)


@pytest.mark.parametrize(("samples", "right", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1)])
def test_what_is_not_possible_is_refused(samples, right, k):
    with pytest.raises(CourseError):
        pass_at_k(samples, right, k)
    with pytest.raises(CourseError, match="no problem"):
        mean_pass_at_k([], 1)
