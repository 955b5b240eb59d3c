"""AUC, calibration error and reliability against their definitions, written out over all pairs and bins."""

import numpy as np
import pytest

from course_lib.errors import CourseError
from course_lib.evaluation.calibration import (
    auc,
    brier_score,
    expected_calibration_error,
    mean_group_auc,
    reliability,
    reliability_figure,
)


def drawn(seed, count=60, steps=12):
    """Scores with many ties, and labels that have to do with them."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, steps + 1, count) / steps
    return scores, rng.random(count) < 0.2 + 0.6 * scores


def by_pairs(scores, labels):
    """P(score of a right answer > score of a wrong one) + P(equal) / 2."""
    wins = [
        1.0 if right > wrong else 0.5 if right == wrong else 0.0
        for right in scores[labels]
        for wrong in scores[~labels]
    ]
    return sum(wins) / len(wins)


@pytest.mark.parametrize("seed", range(20))
def test_auc_is_the_share_of_pairs_in_the_right_order(seed):
    scores, labels = drawn(seed)
    assert auc(scores, labels) == pytest.approx(by_pairs(scores, labels), abs=1e-12)
    assert auc(-scores, labels) == pytest.approx(1 - auc(scores, labels), abs=1e-12)
    assert auc(np.exp(scores), labels) == pytest.approx(auc(scores, labels), abs=1e-12)  # the order alone counts


def test_auc_of_a_worked_example():
    """Right 0.9, 0.4, wrong 0.6, 0.4: of four pairs two are in order, one is not and one is equal."""
    assert auc([0.9, 0.4, 0.6, 0.4], [1, 1, 0, 0]) == (1 + 1 + 0 + 0.5) / 4
    assert auc([0.3, 0.3], [True, False]) == 0.5


def test_among_the_answers_to_one_problem_another_order_counts():
    """A score that knows which problem is easy and nothing else."""
    scores, labels = [0.9, 0.9, 0.9, 0.1, 0.1, 0.1], [1, 1, 0, 1, 0, 0]
    assert auc(scores, labels) > 0.6
    assert mean_group_auc(scores, labels, "aaabbb") == (0.5, 2)
    assert mean_group_auc([0.9, 0.1], [1, 0], "ab") == (None, 0)


def by_bins(scores, labels, bins):
    """The same with a loop over intervals: (low, high], and 0 in the first."""
    total = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [i for i, s in enumerate(scores) if low < s <= high or (s == 0 and number == 0)]
        if inside:
            total += abs(sum(scores[i] for i in inside) - sum(labels[i] for i in inside))
    return total / len(scores)


@pytest.mark.parametrize("seed", range(5))
def test_the_calibration_error_is_that_of_a_loop_over_bins(seed):
    rng = np.random.default_rng(seed)
    scores = rng.random(80)
    labels = rng.random(80) < scores**2
    assert expected_calibration_error(scores, labels) == pytest.approx(by_bins(scores, labels, 10), abs=1e-12)
    assert expected_calibration_error(scores, labels, 7) == pytest.approx(by_bins(scores, labels, 7), abs=1e-12)


def test_worked_calibration():
    scores, labels = [0.85, 0.85, 0.85, 0.85, 0.25, 0.25], [1, 1, 1, 0, 0, 1]
    # (4 x |0.75 - 0.85| + 2 x |0.5 - 0.25|) / 6
    assert expected_calibration_error(scores, labels) == pytest.approx((0.4 + 0.5) / 6)
    assert brier_score([1.0, 0.5], [1, 0]) == pytest.approx(0.125)
    found = reliability([0.0, 0.1, 1.0], [0, 1, 1])
    assert [each.count for each in found] == [2, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert (found[0].score, found[0].right) == (0.05, 0.5)


def test_a_score_that_is_a_probability_has_a_small_error():
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    assert expected_calibration_error(scores, rng.random(20_000) < scores) < 0.02
    assert expected_calibration_error(scores, rng.random(20_000) < 0.5) > 0.2


def test_the_figure_shows_the_bins_that_are_filled():
    scores, labels = drawn(0)
    figure = reliability_figure(scores, labels, title="held out")
    upper, lower = figure.axes
    filled = [each for each in reliability(scores, labels) if each.count]
    assert upper.lines[1].get_ydata() == pytest.approx([each.right for each in filled])
    assert [bar.get_height() for bar in lower.patches] == [each.count for each in filled]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: auc([0.1, 0.2], [1, 1]), "2 right and 0 wrong"),
        (lambda: auc([0.1], [1, 0]), "one label for each score"),
        (lambda: auc([float("nan"), 0.2], [1, 0]), "not a finite number"),
        (lambda: reliability([1.5], [1]), "from 0 to 1"),
        (lambda: reliability([0.5], [1], bins=0), "bins=0"),
        (lambda: brier_score([], []), "at least 1"),
    ],
)
def test_what_is_refused(call, said):
    with pytest.raises(CourseError, match=said):
        call()
