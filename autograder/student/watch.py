"""Checks a notebook again whenever it is saved, and tells what is different from the time before."""

import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from autograder.student.check import Outcome
from course_lib.errors import CourseError

PAUSE = 0.3  # seconds between two looks at the file


def watch(
    path: Path,
    recheck: Callable[[], list[Outcome]],
    tell: Callable[[Outcome], object],
    say: Callable[[str], object],
) -> None:
    """Check at once, and again after each save, until it is interrupted (Ctrl-C).

    Args:
        path: The notebook.
        recheck: Checks it.
        tell: Called with the outcome of each part that is new or different.
        say: Called with a line of summary after each check, and with what is wrong with a file that cannot be read.

    Raises:
        CourseError: The file cannot be checked to begin with.
    """
    try:
        seen = signature(path)
        last = changed([], recheck(), tell)
        say(summary(last))
        say(f"watching {path}: save it to check again, Ctrl-C to stop")
        while True:
            seen = _next_save(path, seen)
            try:
                outcomes = recheck()
            except CourseError as error:  # half saved, or deleted: the next save may be better
                say(str(error))
                continue
            last = changed(last, outcomes, tell)
            say(f"{datetime.now():%H:%M:%S}  {summary(last)}")
    except KeyboardInterrupt:
        say("stopped")


def changed(before: list[Outcome], now: list[Outcome], tell: Callable[[Outcome], object]) -> list[Outcome]:
    """Tell of the parts that are not as they were.

    Args:
        before: The outcomes of the last check.
        now: Those of this one.
        tell: Called with each that differs.

    Returns:
        What it is now.
    """
    known = {outcome.part.id: outcome for outcome in before}
    for outcome in now:
        if known.get(outcome.part.id) != outcome:
            tell(outcome)
    return now


def summary(outcomes: list[Outcome]) -> str:
    """How many parts pass."""
    passed = sum(not outcome.message for outcome in outcomes)
    if len(outcomes) == 1:
        return f"the part {'passes' if passed else 'does not pass'} its visible checks"
    return f"{passed} of {len(outcomes)} parts pass their visible checks"


def signature(path: Path) -> tuple[int, int, int] | None:
    """What differs after a save; None where there is no file, as for a moment while an editor replaces it."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _next_save(path: Path, seen: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Wait until the file is another than `seen`, and has been the same for one look."""
    while True:
        time.sleep(PAUSE)
        now = signature(path)
        if now is not None and now != seen:
            time.sleep(PAUSE)
            if signature(path) == now:
                return now
