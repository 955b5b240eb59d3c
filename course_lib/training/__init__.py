"""Training: the loss, the schedules, checkpoints, several processes, and the one Trainer of the PyTorch edition."""

from course_lib.training.checkpoint import Checkpoints
from course_lib.training.config import CheckpointConfig, TrainingConfig
from course_lib.training.log import StepRecord, read_log
from course_lib.training.loss import count_targets, next_token_loss, summed_loss, summed_loss_, training_loss
from course_lib.training.master_weights import MasterWeightAdamW
from course_lib.training.schedule import SCHEDULES, warmup_cosine, warmup_linear
from course_lib.training.trainer import Trainer

__all__ = [
    "SCHEDULES",
    "CheckpointConfig",
    "Checkpoints",
    "MasterWeightAdamW",
    "StepRecord",
    "Trainer",
    "TrainingConfig",
    "count_targets",
    "next_token_loss",
    "read_log",
    "summed_loss",
    "summed_loss_",
    "training_loss",
    "warmup_cosine",
    "warmup_linear",
]
