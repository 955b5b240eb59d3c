"""Learning-rate schedules, as functions of the step."""

import math

from course_lib.errors import CourseError


def warmup_cosine(step: int, steps: int, warmup: int = 0, floor: float = 0.1) -> float:
    """The factor that multiplies the peak learning rate at `step` (0-based) of `steps`.

    Linear from 1/warmup to 1 over the first `warmup` steps, then half a cosine down to `floor`
    (Loshchilov & Hutter 2017, arXiv:1608.03983, with one cycle).
    """
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * _progress(step, steps, warmup)))


def warmup_linear(step: int, steps: int, warmup: int = 0, floor: float = 0.0) -> float:
    """As `warmup_cosine`, but down to `floor` in a straight line (Devlin et al. 2019, arXiv:1810.04805, app. A.2)."""
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1 - floor) * (1 - _progress(step, steps, warmup))


def warmup_constant(step: int, steps: int, warmup: int = 0, floor: float = 1.0) -> float:
    """As `warmup_cosine`, but it stays at 1 after the warm-up."""
    return (step + 1) / warmup if step < warmup else 1.0


SCHEDULES = {"cosine": warmup_cosine, "linear": warmup_linear, "constant": warmup_constant}


def schedule_named(name: str):
    """One of `SCHEDULES`; CourseError where there is none of that name."""
    if name not in SCHEDULES:
        raise CourseError(f"There is no schedule {name!r}: choose from {', '.join(SCHEDULES)}.")
    return SCHEDULES[name]


def _progress(step: int, steps: int, warmup: int) -> float:
    return min(1.0, (step - warmup) / max(1, steps - warmup))
