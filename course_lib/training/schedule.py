"""Learning-rate schedules, as functions of the step."""

import math

from course_lib.vocabulary import MIN_LR_RATIO


def warmup_cosine(step: int, steps: int, warmup_steps: int = 0, min_lr_ratio: float = MIN_LR_RATIO["cosine"]) -> float:
    """Half a cosine after the warm-up (Loshchilov & Hutter 2017, arXiv:1608.03983, with one cycle).

    Args:
        step: the step, from 0.
        steps: how many there are in the whole run.
        warmup_steps: the factor rises in a straight line from 1 / warmup_steps to 1 over so many steps.
        min_lr_ratio: where the factor ends.

    Returns:
        The factor that multiplies the peak learning rate at this step.

    Example:
        >>> [round(warmup_cosine(step, steps=8, warmup_steps=4), 2) for step in range(8)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.87, 0.55, 0.23]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps  # step + 1, since a first step at a rate of 0 would change nothing
    cosine = 0.5 * (1 + math.cos(math.pi * _progress(step, steps, warmup_steps)))  # from 1 to 0
    return min_lr_ratio + (1 - min_lr_ratio) * cosine


def warmup_linear(step: int, steps: int, warmup_steps: int = 0, min_lr_ratio: float = MIN_LR_RATIO["linear"]) -> float:
    """A straight line down after the warm-up (Devlin et al. 2019, arXiv:1810.04805, app. A.2).

    Args:
        step: the step, from 0.
        steps: how many there are in the whole run.
        warmup_steps: the factor rises in a straight line from 1 / warmup_steps to 1 over so many steps.
        min_lr_ratio: where the factor ends.

    Returns:
        The factor that multiplies the peak learning rate at this step.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return min_lr_ratio + (1 - min_lr_ratio) * (1 - _progress(step, steps, warmup_steps))


def warmup_constant(
    step: int, steps: int, warmup_steps: int = 0, min_lr_ratio: float = MIN_LR_RATIO["constant"]
) -> float:
    """The factor stays at 1 after the warm-up.

    Args:
        step: the step, from 0.
        steps: how many there are in the whole run; it changes nothing here.
        warmup_steps: the factor rises in a straight line from 1 / warmup_steps to 1 over so many steps.
        min_lr_ratio: taken so that all schedules are called alike; it changes nothing here.

    Returns:
        The factor that multiplies the peak learning rate at this step.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 1.0


SCHEDULES = {"cosine": warmup_cosine, "linear": warmup_linear, "constant": warmup_constant}


def _progress(step: int, steps: int, warmup_steps: int) -> float:
    """How much of the way after the warm-up is done, from 0 to 1; all of it at the end, even without a step for it."""
    return (step - warmup_steps) / (steps - warmup_steps) if step < steps else 1.0
