"""What nbgrader's gradebook holds of a submission."""

from pathlib import Path

from autograder.course import Assignment


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
        submission = gradebook.find_submission_notebook(assignment.path.stem, assignment.name, student)
        graded = [g for g in submission.grades if g.auto_score is not None or g.manual_score is not None]
        scores = {grade.cell.name: (grade.score or 0.0, grade.cell.max_score) for grade in graded}
    return {name: score if 0 <= score <= most else 0.0 for name, (score, most) in scores.items()}


def flag(state: Path, assignment: Assignment, student: str) -> None:
    """Have formgrader ask for a person where a submission could not be graded: its points are those of an earlier one.

    Nothing happens where nothing of the student was graded yet.

    Args:
        state: The course's folder, in which the gradebook is.
        assignment: The assignment.
        student: Whose submission it is.
    """
    from nbgrader.api import Gradebook, MissingEntry

    with Gradebook(f"sqlite:///{state / 'gradebook.db'}") as gradebook:
        try:
            submission = gradebook.find_submission_notebook(assignment.path.stem, assignment.name, student)
        except MissingEntry:
            return
        for grade in submission.grades:
            grade.needs_manual_grade = True
        gradebook.db.commit()
