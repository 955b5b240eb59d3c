"""Late submissions in nbgrader's gradebook, by the course's policy."""

from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any

from autograder.grading.collect.policy import Policy

if TYPE_CHECKING:
    from nbgrader.api import Gradebook


def announce(gradebook: "Gradebook", policy: Policy, assignment: str) -> None:
    """Have formgrader show when the assignment is due.

    Args:
        gradebook: nbgrader's, in which times are in UTC and say no zone.
        policy: The course's.
        assignment: The assignment's name.
    """
    due = policy.rule(assignment, "").due
    gradebook.update_or_create_assignment(assignment, duedate=due.replace(tzinfo=None) if due else None)


def settle(gradebook: "Gradebook", policy: Policy, assignment: str, student: str) -> dict[str, Any]:
    """Set the penalty of a submission anew, so that a policy that changed holds for what is graded already.

    Args:
        gradebook: nbgrader's.
        policy: The course's.
        assignment: The assignment's name.
        student: Whose submission it is.

    Returns:
        "late", in words, and "penalty", in points; nothing where the submission is in time.
    """
    submission = gradebook.find_submission(assignment, student)
    rule, common = policy.rule(assignment, student), policy.rule(assignment, "")
    if rule.due and common.due:
        submission.extension = max(rule.due - common.due, timedelta(0)) or None
    handed_in = submission.timestamp.replace(tzinfo=UTC) if submission.timestamp else None
    late = rule.late(handed_in) if handed_in else timedelta(0)
    total = 0.0
    for notebook in submission.notebooks:
        score = sum(grade.score or 0.0 for grade in notebook.grades)
        lost = rule.penalty(handed_in, score, notebook.max_score) if handed_in else 0.0
        notebook.late_submission_penalty = lost or None
        total += lost
    gradebook.db.commit()
    return {"late": in_words(late), "penalty": total} if late else {}


def in_words(late: timedelta) -> str:
    """A duration with its two largest units, such as "1 d 2 h"."""
    minutes, _ = divmod(int(late.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [(days, "d"), (hours, "h"), (minutes, "min")]
    said = [f"{count} {unit}" for count, unit in units if count][:2]
    return " ".join(said) or "less than a minute"
