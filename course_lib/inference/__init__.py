"""Inference: choosing the next token (`sampling`) and the generate loop (`generate`)."""

from course_lib.inference.generate import complete, generate
from course_lib.inference.sampling import sample

__all__ = ["complete", "generate", "sample"]
