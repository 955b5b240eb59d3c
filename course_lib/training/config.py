"""What a training run is asked to do: the numbers that decide its steps, and when it saves. Cheap: no torch."""

from dataclasses import dataclass
from pathlib import Path

from course_lib.errors import CourseError
from course_lib.training.schedule import SCHEDULES
from course_lib.vocabulary import HALF_DTYPES


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides the steps of a run. The names are those that users of transformers and PEFT know.

    Attributes:
        lr: the peak learning rate of AdamW.
        warmup_steps: steps over which the learning rate rises from lr / warmup_steps to lr.
        schedule: how it falls afterwards: "cosine", "linear" or "constant".
        min_lr_ratio: the last learning rate as a share of lr; None: the schedule's own (0.1, 0 and 1).
        weight_decay: AdamW's, on every trained parameter.
        max_grad_norm: gradients are scaled down to this norm where theirs is larger.
        grad_accum_steps: micro-batches of a step.
        tokens_per_step: a step takes micro-batches until it has this many tokens, instead of a fixed number.
        autocast: "bfloat16" or "float16": compute the forward pass in it. float16 scales the loss; a step whose
            gradients overflow is skipped and the scale halved (Micikevicius et al. 2018, arXiv:1710.03740, sec. 3.2).
        gradient_checkpointing: recompute activations in the backward pass: less memory, one more forward pass.
        compile: run the forward pass through torch.compile.
        shard: with several processes, share out weights, gradients and moments (FSDP2) instead of copying them (DDP).

    Raises:
        CourseError: a number is out of its range, or a name is unknown.

    Example:
        >>> TrainingConfig(lr=1e-3, warmup_steps=10, grad_accum_steps=4).max_grad_norm
        1.0
    """

    lr: float
    warmup_steps: int = 0
    schedule: str = "cosine"
    min_lr_ratio: float | None = None
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    grad_accum_steps: int = 1
    tokens_per_step: int | None = None
    autocast: str | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    shard: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise CourseError(f"There is no schedule {self.schedule!r}. Choose one of {', '.join(SCHEDULES)}.")
        for name in ("grad_accum_steps", "tokens_per_step"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise CourseError(f"{name}={value} is not possible: a step needs at least 1.")
        if self.autocast not in (None, *HALF_DTYPES):
            raise CourseError(f"autocast={self.autocast!r} is not possible. Choose bfloat16, float16 or None.")

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of one step.

        Args:
            step: the step, from 0.
            steps: how many there are in the whole run.

        Returns:
            lr times the schedule's factor at that step.
        """
        options = {} if self.min_lr_ratio is None else {"min_lr_ratio": self.min_lr_ratio}
        return self.lr * SCHEDULES[self.schedule](step, steps, self.warmup_steps, **options)


@dataclass(frozen=True)
class CheckpointConfig:
    """Where a run saves its state, how often, and how much of it stays.

    Attributes:
        folder: for the checkpoints; it is made where it is absent.
        every: steps between checkpoints, the last step included; 0: only the best one, after evaluations.
        keep: how many of the newest checkpoints stay, besides the best.
    """

    folder: Path | str
    every: int = 0
    keep: int = 2
