"""Learning-rate schedules, as functions of the step."""

import math


def warmup_cosine(step: int, steps: int, warmup: int = 0, floor: float = 0.1) -> float:
    """The factor that multiplies the peak learning rate at `step` (0-based) of `steps`.

    Linear from 1/warmup to 1 over the first `warmup` steps, then half a cosine down to `floor`
    (Loshchilov & Hutter 2017, arXiv:1608.03983, with one cycle).
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
