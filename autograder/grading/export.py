"""Grades for a learning platform, a spreadsheet or a program."""

import csv
import io
import json
from collections import Counter
from pathlib import Path

from autograder import notebook
from autograder.course import Assignment
from autograder.grading.owners import Owner, student_of
from autograder.grading.report import safe
from autograder.grading.roster import Person
from autograder.grading.standing import Standing
from course_lib.errors import CourseError
from course_lib.files import write_whole

FORMATS = ("csv", "canvas", "moodle", "json")
Rows = list[list[object]]


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
        The students who are left out, because the roster has them not.

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
    text = {"csv": _csv, "canvas": _canvas, "moodle": _moodle, "json": _json}[kind](assignment, students, found, people)
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


def _csv(assignment: Assignment, students: list[str], found: dict[str, Standing], people: dict[str, Person]) -> str:
    parts = notebook.parts(assignment.read())
    rows: Rows = [["student", "name", "email", *(part.id for part in parts), "late penalty", "total", "max"]]
    for student in students:
        person, standing = people.get(student, Person(student)), found.get(student, Standing(student))
        points = [standing.points.get(part.id, "") for part in parts]
        rest = [standing.penalty or "", _total(standing), sum(part.points for part in parts)]
        rows.append([student, person.name, person.email, *points, *rest])
    return _written(rows)


def _canvas(assignment: Assignment, students: list[str], found: dict[str, Standing], people: dict[str, Person]) -> str:
    """The form that Canvas imports: its own five columns, then the assignment, and a row with the points possible."""
    most = sum(part.points for part in notebook.parts(assignment.read()))
    rows: Rows = [["Student", "ID", "SIS User ID", "SIS Login ID", "Section", assignment.name]]
    rows.append(["    Points Possible", "", "", "", "", most])
    for student in students:
        person = people[student]
        total = _total(found.get(student, Standing(student)))
        rows.append([person.name or student, person.lms_id, person.sis_id, student, person.section, total])
    return _written(rows)


def _moodle(assignment: Assignment, students: list[str], found: dict[str, Standing], people: dict[str, Person]) -> str:
    """The form for Moodle's import, which looks students up by username or e-mail address (capitals count)."""
    rows: Rows = [["Username", "Email address", assignment.name]]
    for student in students:
        total = _total(found.get(student, Standing(student)))
        rows.append([student, people.get(student, Person(student)).email, total])
    return _written(rows)


def _json(assignment: Assignment, students: list[str], found: dict[str, Standing], people: dict[str, Person]) -> str:
    parts = notebook.parts(assignment.read())
    listed = []
    for student in students:
        standing, person = found.get(student, Standing(student)), people.get(student, Person(student))
        about = {"name": person.name, "email": person.email}
        points = {part.id: standing.points.get(part.id) for part in parts}
        scores = {"points": points, "late_penalty": standing.penalty, "total": standing.total}
        listed.append({"student": student, **about, **scores, "messages": standing.messages})
    asked = [{"id": part.id, "title": part.title, "points": part.points} for part in parts]
    return json.dumps({"assignment": assignment.name, "parts": asked, "students": listed}, indent=1) + "\n"


def _total(standing: Standing) -> object:
    return "" if standing.total is None else standing.total


def _written(rows: Rows) -> str:
    file = io.StringIO()
    csv.writer(file).writerows([[_cell(each) for each in row] for row in rows])
    return file.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.10g}"
    return safe(value) if isinstance(value, str) else value
