"""Parity: two runs held against each other, ours and the reference's, by loss, gradient and weight."""

from course_lib.parity.curves import LossParity, compare_losses

__all__ = ["LossParity", "compare_losses"]
