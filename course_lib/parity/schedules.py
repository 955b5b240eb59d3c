"""The learning-rate schedules of the reference: torch's own, which ours are compared with."""

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from course_lib.options import filled
from course_lib.parity.recipes import AlignSettings
from course_lib.vocabulary import MIN_LR_RATIO


def torch_schedule(optimizer: torch.optim.Optimizer, settings: AlignSettings) -> LRScheduler:
    """A straight rise from 1/warmup, then torch's cosine or line to the end that `MIN_LR_RATIO` says.

    transformers' own start at a rate of 0 and fall to 0. Checked against `warmup_cosine` and `warmup_linear`.

    Args:
        optimizer: its learning rate is the peak.
        settings: name the schedule, its steps and its warm-up.

    Returns:
        The scheduler.
    """
    fall = max(1, filled(settings.steps) - settings.warmup_steps)
    decay: LRScheduler
    if settings.schedule == "cosine":
        decay = CosineAnnealingLR(optimizer, fall, eta_min=MIN_LR_RATIO["cosine"] * settings.lr)
    else:
        decay = LinearLR(optimizer, 1.0, MIN_LR_RATIO[settings.schedule], fall)
    if not settings.warmup_steps:
        return decay
    rise = LinearLR(optimizer, 1 / settings.warmup_steps, 1.0, max(1, settings.warmup_steps - 1))
    return SequentialLR(optimizer, [rise, decay], [settings.warmup_steps])
