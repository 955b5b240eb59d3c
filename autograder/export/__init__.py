"""Grades for a learning platform, a spreadsheet or a program: one file per format.

Every format has a function `text(assignment, students, found, people)`.
"""

from collections import Counter
from pathlib import Path

from autograder.course import Assignment
from autograder.export import canvas, csv, json, moodle
from autograder.grading.collect.owners import Owner, student_of
from autograder.grading.collect.roster import Person
from autograder.grading.gradebook.standing import Standing
from course_lib.errors import CourseError
from course_lib.files import write_whole

FORMATS = {"csv": csv.text, "canvas": canvas.text, "moodle": moodle.text, "json": json.text}


def export(
    assignment: Assignment, standings: list[Standing], people: dict[str, Person], kind: str, path: Path
) -> list[str]:
    """Write the grades. Cells that a spreadsheet would compute have an apostrophe in front; what was not graded is
    an empty cell, or null in JSON.

    Args:
        assignment: Whose grades they are.
        standings: One per student of the gradebook.
        people: The roster by student; it may be empty, but not for Canvas, which knows a student by its own numbers.
        kind: One of FORMATS.
        path: The file, which is replaced.

    Returns:
        The students who are left out, because they are not on the roster.

    Raises:
        CourseError: The format is for a platform whose names of the students are not known.
    """
    found = _by_roster(standings, people)
    if kind == "canvas" and not people:
        raise CourseError(
            "Canvas knows students by its own numbers: export the gradebook of your Canvas course, and give that file"
            " with --roster."
        )
    students = sorted(people or found)
    text = FORMATS[kind](assignment, students, found, people)
    write_whole(path, text)
    return sorted(found.keys() - set(students))


def _by_roster(standings: list[Standing], people: dict[str, Person]) -> dict[str, Standing]:
    """The standings by the roster's names, as `course collect` finds them: the gradebook may know somebody by another
    id, such as the account on the exchange's machine, which is the roster's SIS id and not its login. Where that is
    nobody on the roster, or two would be the same person, the gradebook's name stays."""
    found = {standing.student: standing for standing in standings}
    meant = {student: student_of(Owner(student, student), people) or student for student in found}
    counted = Counter(meant.values())
    return {meant[each] if counted[meant[each]] == 1 else each: standing for each, standing in found.items()}
