"""Evaluation: how well a model predicts text (`perplexity`), what several models cost and reach (`benchmark`), and what
they say to the same prompts (`comparison`)."""

from course_lib.evaluation.benchmark import Benchmark, Result
from course_lib.evaluation.comparison import Comparison
from course_lib.evaluation.perplexity import HeldOut, evaluate, evaluate_loss, perplexity

__all__ = ["Benchmark", "Comparison", "HeldOut", "Result", "evaluate", "evaluate_loss", "perplexity"]
