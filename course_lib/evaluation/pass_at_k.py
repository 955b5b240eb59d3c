"""pass@k: the chance that at least one of k answers is right."""

import math
from collections.abc import Sequence

import numpy as np

from course_lib.errors import CourseError


def pass_at_k(samples: int, right: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that k of n answers, drawn without putting back, have a right one.

    It is unbiased for the chance that k fresh answers have a right one (Chen et al. 2021, arXiv:2107.03374, eq. 1). The
    plug-in 1 - (1 - c/n)^k is not: it is too low. Checked against enumeration in tests/evaluation/test_pass_at_k.py.

    Args:
        samples: n, the answers to one problem.
        right: c, how many of them are right.
        k: at least 1 and at most n.

    Returns:
        A share from 0 to 1.

    Raises:
        CourseError: the numbers are not possible.

    Example:
        >>> pass_at_k(samples=4, right=1, k=2)
        0.5
    """
    if not 1 <= k <= samples:
        raise CourseError(f"pass@{k} of {samples} answers is not possible: k is at least 1, and at most their number.")
    if not 0 <= right <= samples:
        raise CourseError(f"{right} of {samples} answers cannot be right.")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def mean_pass_at_k(correct: Sequence[Sequence[bool]] | np.ndarray, k: int) -> float:
    """The mean of `pass_at_k` over problems.

    Args:
        correct: for each problem, whether each of its answers is right; problems may have unequal numbers of them.
        k: at least 1, and at most the fewest answers of a problem.

    Returns:
        A share from 0 to 1.

    Raises:
        CourseError: there is no problem, or one has fewer than k answers.
    """
    if not len(correct):
        raise CourseError("There is no problem to average over: give at least one.")
    return float(np.mean([pass_at_k(len(answers), int(np.sum(answers)), k) for answers in correct]))
