"""Training: the loss, the schedule and the one Trainer of the PyTorch edition."""

from course_lib.training.loss import next_token_loss
from course_lib.training.schedule import warmup_cosine
from course_lib.training.trainer import StepRecord, Trainer

__all__ = ["StepRecord", "Trainer", "next_token_loss", "warmup_cosine"]
