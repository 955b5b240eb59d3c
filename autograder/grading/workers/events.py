"""How a worker's process tells what happens: a JSON object on each line of its standard output."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from course_lib.errors import CourseError


@contextmanager
def private_output() -> Iterator[Callable[..., None]]:
    """A function that writes events to our standard output, which the kernels that we start do not inherit: what
    compiled code and child processes print would get between the events."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as listener:
        os.dup2(2, 1)

        def tell(event: str, **fields: Any) -> None:
            print(json.dumps({"event": event, **fields}), file=listener, flush=True)

        yield tell


def serve(worker: Any, tell: Callable[..., None]) -> None:
    """Do the tasks on standard input until it ends: each names a method of the worker, and its arguments.

    Args:
        worker: What does them.
        tell: What `private_output` gives; it is told "done" after each task, or "refused" with a sentence for the user.
    """
    for line in sys.stdin:
        task = json.loads(line)
        try:
            getattr(worker, task.pop("task"))(**task)
        except CourseError as error:
            tell("refused", error=str(error))
        else:
            tell("done")
