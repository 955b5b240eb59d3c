"""Training: the loss, the schedules, checkpoints, several processes, and the one Trainer of the PyTorch edition."""

from course_lib.training.checkpoint import Checkpoints
from course_lib.training.loss import count_targets, next_token_loss, summed_loss, summed_loss_
from course_lib.training.schedule import SCHEDULES, warmup_cosine, warmup_linear
from course_lib.training.trainer import StepRecord, Trainer, read_log

__all__ = [
    "SCHEDULES",
    "Checkpoints",
    "StepRecord",
    "Trainer",
    "count_targets",
    "next_token_loss",
    "read_log",
    "summed_loss",
    "summed_loss_",
    "warmup_cosine",
    "warmup_linear",
]
