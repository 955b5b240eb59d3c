"""The learning-rate schedules of the reference: torch's own, which ours are compared with."""

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from course_lib.options import filled
from course_lib.parity.recipes import AlignSettings

# At the end of the run, as a share of the peak. Written here too: the reference uses none of our numbers.
LAST = {"cosine": 0.1, "linear": 0.0, "constant": 1.0}


def torch_schedule(optimizer: torch.optim.Optimizer, settings: AlignSettings) -> LRScheduler:
    """A straight rise from 1/warmup, then torch's cosine or line to the end that `LAST` says.

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
        decay = CosineAnnealingLR(optimizer, fall, eta_min=LAST["cosine"] * settings.lr)
    else:
        decay = LinearLR(optimizer, 1.0, LAST[settings.schedule], fall)
    if not settings.warmup_steps:
        return decay
    rise = LinearLR(optimizer, 1 / settings.warmup_steps, 1.0, max(1, settings.warmup_steps - 1))
    return SequentialLR(optimizer, [rise, decay], [settings.warmup_steps])
