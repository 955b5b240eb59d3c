"""Alignment: what a model's stages say, side by side (`report`)."""

from course_lib.alignment.report import Comparison

__all__ = ["Comparison"]
