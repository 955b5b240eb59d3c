"""How close two training runs are, step by step. Cheap: the command line imports this room."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from course_lib.errors import CourseError


@dataclass(frozen=True)
class LossParity:
    """The largest difference between two loss curves.

    Attributes:
        absolute: in nats.
        relative: the largest of the differences, each divided by the second run's loss at its step.
        step: where the absolute difference is largest, from 0.
    """

    absolute: float
    relative: float
    step: int


def compare_losses(ours: Sequence[float], theirs: Sequence[float]) -> LossParity:
    """Compare two curves step by step.

    Args:
        ours: a run's losses.
        theirs: as many losses of the run of reference.

    Returns:
        The largest differences.

    Raises:
        CourseError: the curves are empty or not equally long.
    """
    if len(ours) != len(theirs) or not len(ours):
        raise CourseError(f"Two loss curves of {len(ours)} and {len(theirs)} steps cannot be compared step by step.")
    differences = [abs(float(a) - float(b)) for a, b in zip(ours, theirs, strict=True)]
    # A loss of 0 allows only a difference of 0.
    relative = [
        difference / abs(float(b)) if b else (math.inf if difference else 0.0)
        for difference, b in zip(differences, theirs, strict=True)
    ]
    step = max(range(len(differences)), key=lambda number: _rank(differences[number]))
    return LossParity(differences[step], max(relative, key=_rank), step)


def _rank(difference: float) -> float:
    """NaN counts as the largest difference of all."""
    return math.inf if math.isnan(difference) else difference
