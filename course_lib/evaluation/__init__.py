"""Evaluation: how well a model predicts text (`perplexity`), what several models cost and reach (`benchmark`), and what
they say to the same prompts (`comparison`); how often one of several answers is right (`pass_at_k`)."""

from course_lib.evaluation.benchmark import Benchmark, Result
from course_lib.evaluation.comparison import Comparison
from course_lib.evaluation.pass_at_k import mean_pass_at_k, pass_at_k
from course_lib.evaluation.perplexity import HeldOut, evaluate, evaluate_loss, perplexity

__all__ = [
    "Benchmark",
    "Comparison",
    "HeldOut",
    "Result",
    "evaluate",
    "evaluate_loss",
    "mean_pass_at_k",
    "pass_at_k",
    "perplexity",
]
