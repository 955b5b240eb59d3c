"""What a class has reached in an assignment, as the gradebook has it: for statistics and exports."""

from dataclasses import dataclass, field
from pathlib import Path

from autograder import notebook
from autograder.course import Assignment
from autograder.grading.gradebook.scores import points_in
from course_lib.errors import CourseError, printable


@dataclass(frozen=True)
class Standing:
    """One student's.

    points: by part; a part that was not graded is absent. penalty: what being late costs. messages: why a part did not
    get its points, by part.
    """

    student: str
    points: dict[str, float] = field(default_factory=dict)
    penalty: float = 0.0
    messages: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> float | None:
        """The points less the penalty; None where nothing was graded, which is not a zero."""
        return max(0.0, sum(self.points.values()) - self.penalty) if self.points else None


def standings(assignment: Assignment, state: Path) -> list[Standing]:
    """All students of whom the gradebook has a submission, by name.

    Args:
        assignment: Of which assignment.
        state: The course's folder.

    Returns:
        One for each student.

    Raises:
        CourseError: There is no gradebook, or nothing of this assignment in it.
    """
    file = state / "gradebook.db"
    nothing = f"Nothing of {assignment.name} is graded in {state}: run `course grade {assignment.name}` first."
    if not file.is_file():
        raise CourseError(nothing)
    from nbgrader.api import Gradebook

    found = []
    with Gradebook(f"sqlite:///{file}") as gradebook:
        for submission in gradebook.assignment_submissions(assignment.name) if _has(gradebook, assignment) else []:
            student = submission.student.id
            points = points_in(gradebook, assignment.name, assignment.path.stem, student)
            penalty = sum(each.late_submission_penalty or 0.0 for each in submission.notebooks)
            found.append(Standing(student, points, penalty, _messages(assignment, state, student)))
    if not found:
        raise CourseError(nothing)
    return sorted(found, key=lambda standing: standing.student)


def _has(gradebook: object, assignment: Assignment) -> bool:
    return assignment.name in [each.name for each in gradebook.assignments]  # type: ignore[attr-defined]


def _messages(assignment: Assignment, state: Path, student: str) -> dict[str, str]:
    """The first line of what each test complained about, of the student's graded notebook."""
    path = state / "autograded" / student / assignment.name / assignment.path.name
    if not path.is_file():
        return {}
    found = {}
    for cell in notebook.read(path).cells:
        if not notebook.is_test(cell):
            continue
        errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
        said = notebook.said_beside_score(cell)  # a property was lost, and the others have their points
        if errors:
            said = notebook.COLOUR.sub("", errors[0].evalue).strip() or errors[0].ename
        if said:
            found[notebook.grade_id(cell) or ""] = printable(said.splitlines()[0])[:300]
    return found
