"""One grading of a course at a time: two would write the same gradebook and the same folders."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from autograder.sandbox.usage import alive
from course_lib.errors import CourseError

NAME = ".grading.lock"
PATIENCE = 600.0  # seconds: what a killed run was booking is done long before
LOOK = 0.05


@contextmanager
def only_one(state: Path, say: Callable[[str], object]) -> Iterator[int]:
    """Hold the course's lock. Within, the file descriptor that it hangs on: a process that is given it holds it too.

    So the process that writes the gradebook for a run that was killed keeps the next run waiting until it has ended.

    Args:
        state: The course's folder, made if it is absent.
        say: Called with a line where something is waited for.

    Yields:
        The descriptor of the lock's file.

    Raises:
        CourseError: Another run holds it, or what a killed one has left does not end.
    """
    state.mkdir(parents=True, exist_ok=True)
    with (state / NAME).open("a+") as file:
        _take(file, state, say)
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file.fileno()


def _take(file: IO[str], state: Path, say: Callable[[str], object]) -> None:
    end, told = time.monotonic() + PATIENCE, False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        file.seek(0)
        holder = file.read().strip()
        if holder.isdigit() and alive(int(holder)):
            raise CourseError(
                f"Another `course grade` (process {holder}) is at work in {state}: wait until it has ended, or end it."
            )
        if time.monotonic() > end:
            raise CourseError(f"A process that an earlier `course grade` left still writes in {state}: end it first.")
        if not told:
            say("waiting for the process that an earlier run has left")
            told = True
        time.sleep(LOOK)
