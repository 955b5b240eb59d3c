"""The names of the preference losses, and the range of their numbers. Without torch, so that commands start quickly."""

import math

from course_lib.errors import CourseError

LOSS_TYPES = ("sigmoid", "ipo", "hinge", "simpo")
SMOOTHED = ("sigmoid", "simpo")  # the losses that label smoothing is defined for


def check_loss(loss_type: str, beta: float, label_smoothing: float = 0.0) -> None:
    """Refuse a preference loss that does not exist, or a number that makes no sense for it.

    Args:
        loss_type: one of `LOSS_TYPES`.
        beta: above 0.
        label_smoothing: from 0 to below 0.5, and 0 for a loss that has none.

    Raises:
        CourseError: one of them is not possible.

    Example:
        >>> check_loss("ipo", beta=0.1)
        >>> check_loss("hinge", beta=0.0)
        Traceback (most recent call last):
        ...
        course_lib.errors.CourseError: beta=0.0 is not possible: it has to be above 0. With 0 the pairs would not count,
        and below 0 the rejected responses would be learnt. 0.1 is usual.
    """
    if loss_type not in LOSS_TYPES:
        raise CourseError(f"loss_type={loss_type!r} is not possible. Choose one of {', '.join(LOSS_TYPES)}.")
    if not (math.isfinite(beta) and beta > 0):
        raise CourseError(
            f"beta={beta} is not possible: it has to be above 0. With 0 the pairs would not count, and below 0 the "
            "rejected responses would be learnt. 0.1 is usual."
        )
    if not 0 <= label_smoothing < 0.5:
        raise CourseError(
            f"label_smoothing={label_smoothing} is not possible. It is the share of pairs that are labelled the wrong "
            "way round: at least 0 and below 0.5."
        )
    if label_smoothing and loss_type not in SMOOTHED:
        raise CourseError(
            f"loss_type={loss_type!r} has no label smoothing: leave label_smoothing at 0, or take sigmoid."
        )
