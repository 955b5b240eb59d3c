"""What nbgrader's gradebook holds of a submission."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from autograder.course import Assignment

if TYPE_CHECKING:
    from nbgrader.api import Gradebook


def points_of(state: Path, assignment: Assignment, student: str) -> dict[str, float]:
    """Points by part, from the tests or from a person.

    Args:
        state: The course's folder, in which the gradebook is.
        assignment: The assignment.
        student: Whose submission it is.

    Returns:
        The points by the grade id of the part. A part that was not graded is absent: that is not a zero. A score below
        0 or above the part's maximum is not believed and counts as 0.
    """
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{state / 'gradebook.db'}") as gradebook:
        return points_in(gradebook, assignment.name, assignment.path.stem, student)


def points_in(gradebook: "Gradebook", assignment: str, notebook: str, student: str) -> dict[str, float]:
    """The same, in a gradebook that is open.

    Args:
        gradebook: nbgrader's.
        assignment: The assignment's name.
        notebook: The name of its notebook.
        student: Whose submission it is.

    Returns:
        As `points_of`.
    """
    submission = gradebook.find_submission_notebook(notebook, assignment, student)
    graded = [g for g in submission.grades if g.auto_score is not None or g.manual_score is not None]
    scores = {grade.cell.name: (grade.score or 0.0, grade.cell.max_score) for grade in graded}
    return {name: score if 0 <= score <= most else 0.0 for name, (score, most) in scores.items()}


def flag(gradebook: "Gradebook", assignment: str, notebook: str, students: Iterable[str]) -> None:
    """Have formgrader ask for a person where a submission could not be graded: its points are those of an earlier one.

    Nothing happens where nothing of a student was graded yet.

    Args:
        gradebook: nbgrader's.
        assignment: The assignment's name.
        notebook: The name of its notebook.
        students: Whose submissions they are.
    """
    for grade in _grades(gradebook, assignment, notebook, students):
        grade.needs_manual_grade = True
    gradebook.db.commit()


def _grades(gradebook: "Gradebook", assignment: str, notebook: str, students: Iterable[str]) -> Iterator:
    from nbgrader.api import MissingEntry

    for student in students:
        try:
            yield from gradebook.find_submission_notebook(notebook, assignment, student).grades
        except MissingEntry:
            continue
