"""Runs nbgrader for `grade`, in a process of its own whose working folder is the course's:

    python -m autograder.grading.worker ASSIGNMENT

Tasks come on standard input and what happens is told on standard output, a JSON object on each line. The tasks:

- {"task": "release"}: make the release, and the assignment in the gradebook.
- {"task": "grade", "submitted": FOLDER, "students": [...], "sandbox": true}: grade them, one after the other.
- {"task": "feedback", "students": [...]}: write their feedback.

The answer to each ends with {"event": "done"}. Before it come {"event": "failed", "error": ...} for the task as a
whole, and for one student "started", "slow", "stopped", "flagged", "graded", and "problem" with what went wrong.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autograder import notebook  # first: it makes nbformat start faster  # noqa: F401
from autograder.grading.converters import Autograde, Execute, GenerateFeedback
from autograder.judging.secret import secret_seed
from autograder.notebook import Cell


class Errors(logging.Handler):
    """Keeps what nbgrader logs as errors, since it raises them without their text."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        self.said.append(record.getMessage())


class Worker:
    """One nbgrader application, and what it is told to do."""

    def __init__(self, assignment: str, tell: Callable[..., None]) -> None:
        from nbgrader.apps.autogradeapp import AutogradeApp

        self.tell, self.errors = tell, Errors()
        self.app = AutogradeApp()
        self.app.initialize([assignment, "--create", "--force"])
        self.app.log.addHandler(self.errors)
        self.course = self.app.coursedir
        self.course.assignment_id = assignment

    def release(self) -> None:
        """nbgrader generate_assignment."""
        from nbgrader.converters import GenerateAssignment

        with self.told("failed"):
            GenerateAssignment(coursedir=self.course, parent=self.app).start()

    def grade(self, submitted: str, students: list[str], sandbox: bool = True) -> None:
        """nbgrader autograde.

        Args:
            submitted: The folder that holds STUDENT/ASSIGNMENT/NOTEBOOK.
            students: Who is graded, in this order.
            sandbox: Whether the judge, where it decides, runs them in the sandbox.
        """
        Execute.sandbox, Execute.seed = sandbox, secret_seed(Path.cwd())
        self.course.submitted_directory = submitted
        for student in students:
            self.tell("started", student=student)
            Execute.tell = staticmethod(self.heard(student))
            with self.told("problem", student=student):
                converter = Autograde(coursedir=self.course, parent=self.app)
                converter.student = student
                converter.start()
                self.tell("graded", student=student)

    def feedback(self, students: list[str]) -> None:
        """nbgrader generate_feedback."""
        for student in students:
            with self.told("problem", student=student):
                converter = GenerateFeedback(coursedir=self.course, parent=self.app)
                converter.student = student
                converter.start()

    def heard(self, student: str) -> Callable[[str, Cell, str], None]:
        """What `CellRunner` is to call."""

        def tell(event: str, cell: Cell, text: str) -> None:
            if event in ("slow", "stopped", "flagged"):
                self.tell(event, student=student, text=text)

        return tell

    @contextmanager
    def told(self, event: str, **fields: Any) -> Iterator[None]:
        """An error inside becomes an event. SystemExit is how nbgrader's applications give up."""
        self.errors.said.clear()
        try:
            yield
        except (Exception, SystemExit) as error:
            said = " ".join(self.errors.said) or str(error)
            self.tell(event, error=f"{type(error).__name__}: {said}", **fields)


@contextmanager
def private_output() -> Iterator[Callable[..., None]]:
    """A function that writes events to our standard output, which the kernels that we start do not inherit: what
    compiled code and child processes print would get between the events."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as listener:
        os.dup2(2, 1)

        def tell(event: str, **fields: Any) -> None:
            print(json.dumps({"event": event, **fields}), file=listener, flush=True)

        yield tell


def main(assignment: str) -> None:
    """Do the tasks on standard input until it ends."""
    with private_output() as tell:
        worker = Worker(assignment, tell)
        for line in sys.stdin:
            task = json.loads(line)
            getattr(worker, task.pop("task"))(**task)
            tell("done")


if __name__ == "__main__":
    main(sys.argv[1])
