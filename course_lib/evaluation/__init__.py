"""Evaluation: how well a model predicts text (`perplexity`), what several models cost and reach (`benchmark`), and how
close two runs are (`parity`)."""

from course_lib.evaluation.benchmark import Benchmark, Result
from course_lib.evaluation.parity import LossParity, compare_losses
from course_lib.evaluation.perplexity import evaluate_loss, perplexity

__all__ = ["Benchmark", "LossParity", "Result", "compare_losses", "evaluate_loss", "perplexity"]
