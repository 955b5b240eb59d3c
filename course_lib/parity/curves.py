"""How close two training runs are, step by step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from course_lib.errors import CourseError


@dataclass(frozen=True)
class LossParity:
    """The largest difference between two loss curves, and the step (0-based) where it is.

    absolute: nats; relative: to the second run's loss at that same step's worst case.
    """

    absolute: float
    relative: float
    step: int


def compare_losses(ours: Sequence[float], theirs: Sequence[float]) -> LossParity:
    """Compare two curves of the same length, step by step."""
    if len(ours) != len(theirs) or not len(ours):
        raise CourseError(f"Two loss curves of {len(ours)} and {len(theirs)} steps cannot be compared step by step.")
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    difference = np.abs(a - b)
    return LossParity(
        absolute=float(difference.max()),
        relative=float((difference / np.abs(b)).max()),
        step=int(difference.argmax()),
    )
