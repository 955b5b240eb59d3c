"""How good a score from 0 to 1 is: does it rank right answers above wrong ones, and is it a probability?

Checked in tests/evaluation/test_calibration.py against the definitions, written out over all pairs and bins.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from course_lib.errors import CourseError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Numbers = Sequence[float] | np.ndarray
Labels = Sequence[bool] | Sequence[int] | np.ndarray


def _checked(scores: Numbers, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    values, right = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    if values.ndim != 1 or values.shape != right.shape or not len(values):
        raise CourseError(f"{values.shape} scores and {right.shape} labels: give one label for each score, at least 1.")
    if not np.isfinite(values).all():
        raise CourseError("A score is not a finite number: leave its answer out, or score it again.")
    return values, right


def auc(scores: Numbers, labels: Labels) -> float:
    """The chance that a right answer has a higher score than a wrong one; a tie counts half.

    It is the area under the ROC curve, computed from ranks (Mann and Whitney 1947): with the ranks r of the scores, of
    equal scores their mean, and n right and m wrong answers,

        AUC = (sum of r over the right ones - n (n + 1) / 2) / (n m)

    Args:
        scores: (answers,).
        labels: (answers,), whether each is right.

    Returns:
        0.5 for scores that say nothing, 1 for a perfect order.

    Raises:
        CourseError: there are no right or no wrong answers, or a score is not a number.
    """
    values, right = _checked(scores, labels)
    n, m = int(right.sum()), int((~right).sum())
    if not (n and m):
        raise CourseError(
            f"AUC compares right answers with wrong ones, and here are {n} right and {m} wrong: give answers of both "
            "kinds."
        )
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    # Equal scores share the mean of the ranks that they take up together: the last one's, minus half of the others.
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    return float((mean_rank[place][right].sum() - n * (n + 1) / 2) / (n * m))


def mean_group_auc(scores: Numbers, labels: Labels, groups: Sequence[Hashable]) -> tuple[float | None, int]:
    """AUC among the answers to one problem, averaged over problems: what counts where answers are reranked.

    A score that only knows which problems are easy has a high AUC over all answers, and 0.5 here.

    Args:
        scores: (answers,).
        labels: (answers,), whether each is right.
        groups: (answers,), the problem of each.

    Returns:
        (the mean, or None where no problem has both; the number of problems that have a right and a wrong answer).
    """
    values, right = _checked(scores, labels)
    members: dict[Hashable, list[int]] = {}
    for number, group in enumerate(groups):
        members.setdefault(group, []).append(number)
    mixed = [each for each in members.values() if 0 < right[each].sum() < len(each)]
    if not mixed:
        return None, 0
    return float(np.mean([auc(values[each], right[each]) for each in mixed])), len(mixed)


@dataclass(frozen=True)
class Bin:
    """The answers whose scores lie in one interval.

    Attributes:
        low: its lower end, which belongs to it only where it is 0.
        high: its upper end.
        count: how many answers.
        score: their mean score; 0 for none.
        right: the share of them that is right; 0 for none.
    """

    low: float
    high: float
    count: int
    score: float
    right: float


def reliability(scores: Numbers, labels: Labels, bins: int = 10) -> list[Bin]:
    """Mean score and share of right answers in intervals of equal width (Guo et al. 2017, arXiv:1706.04599, sec. 2).

    Args:
        scores: (answers,), from 0 to 1.
        labels: (answers,), whether each is right.
        bins: how many intervals.

    Returns:
        One `Bin` for each interval.

    Raises:
        CourseError: a score is outside 0 to 1, or bins is below 1.
    """
    values, right = _checked(scores, labels)
    if bins < 1:
        raise CourseError(f"bins={bins} is not possible: there is at least one interval.")
    if values.min() < 0 or values.max() > 1:
        raise CourseError(f"Scores lie from 0 to 1, and here from {values.min():g} to {values.max():g}.")
    place = np.clip(np.ceil(values * bins).astype(int) - 1, 0, bins - 1)  # (low, high], and 0 in the first
    found = []
    for number in range(bins):
        inside = place == number
        count = int(inside.sum())
        score, share = (float(values[inside].mean()), float(right[inside].mean())) if count else (0.0, 0.0)
        found.append(Bin(number / bins, (number + 1) / bins, count, score, share))
    return found


def expected_calibration_error(scores: Numbers, labels: Labels, bins: int = 10) -> float:
    """How far scores are from being probabilities: by how much the bins are off, on average over answers.

    Args:
        scores: (answers,), from 0 to 1.
        labels: (answers,), whether each is right.
        bins: intervals of equal width.

    Returns:
        0 where every bin's mean score is its share of right answers; at most 1.

    Raises:
        CourseError: see `reliability`.
    """
    found = reliability(scores, labels, bins)
    return sum(each.count * abs(each.right - each.score) for each in found) / sum(each.count for each in found)


def brier_score(scores: Numbers, labels: Labels) -> float:
    """The mean squared distance of score and outcome: 0.25 for a score that is always one half.

    Args:
        scores: (answers,), from 0 to 1.
        labels: (answers,), whether each is right.

    Returns:
        From 0 to 1; smaller is better.
    """
    values, right = _checked(scores, labels)
    return float(np.mean((values - right) ** 2))


def reliability_figure(scores: Numbers, labels: Labels, bins: int = 10, title: str = "") -> "Figure":
    """The share of right answers over the mean score of each bin, and below it how many answers each bin has.

    Args:
        scores: (answers,), from 0 to 1.
        labels: (answers,), whether each is right.
        bins: intervals of equal width.
        title: above the figure.

    Returns:
        The figure. On the dashed diagonal a score is a probability.
    """
    from matplotlib.figure import Figure

    found = [each for each in reliability(scores, labels, bins) if each.count]
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], linestyle="--", color="0.5", linewidth=1, label="a probability")
    error = expected_calibration_error(scores, labels, bins)
    upper.plot([each.score for each in found], [each.right for each in found], "o-", label=f"ECE {error:.3f}")
    upper.set(ylabel="share of right answers", ylim=(-0.03, 1.03), title=title)
    upper.legend(fontsize="small")
    middles = [(each.low + each.high) / 2 for each in found]
    lower.bar(middles, [each.count for each in found], width=0.9 / bins, color="0.6")
    lower.set(xlabel="score", ylabel="answers", xlim=(0, 1))
    return figure
