"""Evaluation: how well a model predicts text (`perplexity`) and how close two runs are (`parity`)."""

from course_lib.evaluation.parity import LossParity, compare_losses
from course_lib.evaluation.perplexity import evaluate_loss, perplexity

__all__ = ["LossParity", "compare_losses", "evaluate_loss", "perplexity"]
