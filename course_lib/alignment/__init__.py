"""Alignment: supervised fine-tuning and preference optimisation (`dpo`, `grpo`) of a model, and what they need."""

from course_lib.alignment.dpo import LOSS_TYPES, dpo_loss, reward_metrics
from course_lib.alignment.log_probs import sequence_log_probs

__all__ = ["LOSS_TYPES", "dpo_loss", "reward_metrics", "sequence_log_probs"]
