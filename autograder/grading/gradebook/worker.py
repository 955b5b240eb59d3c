"""Runs nbgrader for `grade`, in a process of its own whose working folder is the course's:

    python -m autograder.grading.gradebook.worker ASSIGNMENT

Tasks come on standard input and what happens is told on standard output, a JSON object on each line. The tasks:

- {"task": "release"}: make the release, and the assignment in the gradebook.
- {"task": "tests"}: tell the sources of the assignment's own cells as the gradebook has them, hidden tests included.
- {"task": "grade", "submitted": FOLDER, "results": FOLDER, "students": [...]}: book what came of their tests, which
  `evaluate` has run, one student after the other.
- {"task": "points", "students": [...], "unsettled": [...]}: tell the points of each, and what being late costs, after
  formgrader was made to ask for a person with those that could not be graded.
- {"task": "feedback", "students": [...]}: write their feedback.

The answer to each ends with {"event": "done"}, or with {"event": "refused", "error": ...} where the task cannot be
done. Before it come {"event": "failed", "error": ...} for the task as a whole, and for one student "graded", "points",
and "problem" with what went wrong.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autograder import notebook  # first: it makes nbformat start faster  # noqa: F401
from autograder.grading.collect.policy import read_policy
from autograder.grading.gradebook import late, scores
from autograder.grading.gradebook.converters import Autograde, Execute, GenerateFeedback
from autograder.grading.workers.events import private_output, serve


class Errors(logging.Handler):
    """Keeps what nbgrader logs as errors, since it raises them without their text."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        self.said.append(record.getMessage())


class Worker:
    """One nbgrader application, and what it is told to do.

    Args:
        assignment: The assignment's name.
        tell: Called with each event, its fields by name.
    """

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
            converter = GenerateAssignment(coursedir=self.course, parent=self.app)
            converter.force = True  # the application's --force reaches only its own converter, which autogrades
            converter.start()

    def tests(self) -> None:
        """The sources of the cells that are not the student's to write."""
        from nbgrader.api import Gradebook

        with Gradebook(self.course.db_url, self.course.course_id) as book:
            cells = book.find_assignment(self.course.assignment_id).notebooks[0].source_cells
            self.tell("tests", sources={cell.name: cell.source for cell in cells if cell.locked})

    def grade(self, submitted: str, results: str, students: list[str]) -> None:
        """nbgrader autograde, with results that are there already.

        Args:
            submitted: The folder that holds STUDENT/ASSIGNMENT/NOTEBOOK.
            results: The folder that holds the same notebooks with the outputs of their tests.
            students: Who is graded, in this order.
        """
        self.course.submitted_directory, Execute.results = submitted, Path(results)
        for student in students:
            with self.told("problem", student=student):
                converter = Autograde(coursedir=self.course, parent=self.app)
                converter.student = student
                converter.start()
                self.tell("graded", student=student)

    def points(self, students: list[str], unsettled: list[str]) -> None:
        """What the gradebook holds.

        Args:
            students: Of whom.
            unsettled: Whose submissions could not be graded.
        """
        from nbgrader.api import Gradebook

        policy = read_policy(Path.cwd())
        with Gradebook(self.course.db_url, self.course.course_id) as book:
            name = self.course.assignment_id
            notebook_name = book.find_assignment(name).notebooks[0].name
            scores.flag(book, name, notebook_name, unsettled)
            if policy is not None:
                late.announce(book, policy, name)
            for student in students:
                said = late.settle(book, policy, name, student) if policy is not None else {}
                points = scores.points_in(book, name, notebook_name, student)
                self.tell("points", student=student, points=points, **said)

    def feedback(self, students: list[str]) -> None:
        """nbgrader generate_feedback."""
        for student in students:
            with self.told("problem", student=student):
                converter = GenerateFeedback(coursedir=self.course, parent=self.app)
                converter.student = student
                converter.start()

    @contextmanager
    def told(self, event: str, **fields: Any) -> Iterator[None]:
        """An error inside becomes an event. SystemExit is how nbgrader's applications give up.

        Args:
            event: The event's name.
            fields: What else it says.
        """
        self.errors.said.clear()
        try:
            yield
        except (Exception, SystemExit) as error:
            said = " ".join(self.errors.said) or str(error)
            self.tell(event, error=f"{type(error).__name__}: {said}", **fields)


def main(assignment: str) -> None:
    """Do the tasks on standard input until it ends."""
    with private_output() as tell:
        serve(Worker(assignment, tell), tell)


if __name__ == "__main__":
    main(sys.argv[1])
