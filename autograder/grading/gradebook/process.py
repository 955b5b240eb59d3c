"""The process in which nbgrader runs: see `worker`."""

from pathlib import Path

from autograder.configuration import place
from autograder.grading.workers.process import WorkerProcess


class NbgraderProcess(WorkerProcess):
    """A `worker` for the assignment NAME in the course's folder.

    Args:
        state: The course's folder.
        name: The assignment.
        held: File descriptors that it keeps open for as long as it lives.
    """

    what = "nbgrader's process"

    def __init__(self, state: Path, name: str, held: tuple[int, ...] = ()) -> None:
        place(state)
        super().__init__("autograder.grading.gradebook.worker", name, folder=state, held=held)
