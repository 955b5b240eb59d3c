"""Times that a noisy machine cannot spoil: both sides in turn, in one process, and the median of their ratios."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Paired:
    """What a comparison in pairs gave.

    Attributes:
        ours_s: the median of our times, in seconds.
        theirs_s: the median of their times, in seconds.
        ratio: the median of ours / theirs over the pairs; below 1 ours is faster.
        pairs: how many pairs counted.
    """

    ours_s: float
    theirs_s: float
    ratio: float
    pairs: int


def paired(ours: Callable[[], object], theirs: Callable[[], object], pairs: int = 30, warm_up: int = 3) -> Paired:
    """Run `ours` and `theirs` alternately, each first as often as the other, and compare pair by pair.

    Args:
        ours: does our side's work once.
        theirs: does the peer's work once.
        pairs: how many pairs count.
        warm_up: how many pairs are run before, which do not count.

    Returns:
        The medians of both sides and of the pairs' ratios.
    """
    a: list[float] = []
    b: list[float] = []
    for pair in range(warm_up + pairs):
        # Who goes first changes from pair to pair, since the first run can find a colder cache or processor.
        order = ((ours, a), (theirs, b)) if pair % 2 else ((theirs, b), (ours, a))
        for work, times in order:
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
    a, b = a[warm_up:], b[warm_up:]
    ratio = statistics.median(x / y for x, y in zip(a, b, strict=True))
    return Paired(statistics.median(a), statistics.median(b), ratio, pairs)


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What `work` returns, and the seconds it took."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started
