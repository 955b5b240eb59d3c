"""What nbgrader's gradebook holds of a submission."""

from pathlib import Path

from autograder.course import Assignment


def points_of(state: Path, assignment: Assignment, student: str) -> dict[str, float]:
    """Points by part. A part that is not graded, by a check or by a person, is absent: that is not a zero.

    A score outside 0 to the part's maximum is not believed.
    """
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{state / 'gradebook.db'}") as gradebook:
        submission = gradebook.find_submission_notebook(assignment.path.stem, assignment.name, student)
        graded = [g for g in submission.grades if g.auto_score is not None or g.manual_score is not None]
        scores = {grade.cell.name: (grade.score or 0.0, grade.cell.max_score) for grade in graded}
    return {name: score if 0 <= score <= most else 0.0 for name, (score, most) in scores.items()}


def flag(state: Path, assignment: Assignment, student: str) -> None:
    """Have formgrader ask for a person where a submission could not be graded: points that are there are of an earlier
    one. Nothing happens where the student has no submission yet."""
    from nbgrader.api import Gradebook, MissingEntry

    with Gradebook(f"sqlite:///{state / 'gradebook.db'}") as gradebook:
        try:
            submission = gradebook.find_submission_notebook(assignment.path.stem, assignment.name, student)
        except MissingEntry:
            return
        for grade in submission.grades:
            grade.needs_manual_grade = True
        gradebook.db.commit()
