"""Who takes the course: a CSV file of one's own, the one of `nbgrader db student import`, or as Canvas and Moodle
export it."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from course_lib.errors import CourseError

NAME = "roster.csv"  # in the course's folder
COLUMNS = {
    "student": ("student", "sis login id", "username", "login", "user", "student id"),
    "email": ("email", "email address", "e-mail", "mail"),
    "lms_id": ("id", "canvas id", "lms id"),
    "sis_id": ("sis user id", "sis id", "id number"),
    "section": ("section", "groups", "group"),
}
NBGRADER = ("id", "first_name", "last_name")  # columns of nbgrader's file, where "id" has the folder's name
CANVAS = "sis login id"  # in a file of Canvas, where the column "Student" has the name
SKIPPED = ("points possible", "student, test")  # rows of Canvas that are nobody


@dataclass(frozen=True)
class Person:
    """One of the class. student: the name of the folder. The others are a learning platform's, and may be empty."""

    student: str
    name: str = ""
    email: str = ""
    lms_id: str = ""
    sis_id: str = ""
    section: str = ""


def read_roster(path: Path) -> dict[str, Person]:
    """The class by student.

    Args:
        path: A CSV file with a header. The students' names in the course are in the first of the columns student,
            SIS Login ID, Username, login, user and student id that is there; in nbgrader's own file, in the column id.

    Raises:
        CourseError: The file is absent, has no such column, or has a student twice.
    """
    if not path.is_file():
        raise CourseError(f"There is no roster {path}.")
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    rows = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    header = {name.strip().lower(): name for name in rows.fieldnames or [] if name}
    canvas = CANVAS in header
    columns = {field: _column(header, names) for field, names in COLUMNS.items()}
    if canvas:
        columns["student"] = header[CANVAS]
    if not columns["student"] and header.keys() >= set(NBGRADER):
        columns["student"], columns["lms_id"] = header["id"], ""
    if not columns["student"]:
        wanted = ", ".join(COLUMNS["student"])
        raise CourseError(f"The roster {path} has no column with the students: name one of its columns {wanted}.")
    people: dict[str, Person] = {}
    for number, row in enumerate(rows, start=2):
        person = _person(row, columns, header, canvas)
        if person is None:
            continue
        if "/" in person.student or person.student.startswith("."):
            raise CourseError(f"The roster {path} has the student {person.student!r}, which cannot be a folder's name.")
        if person.student in people:
            raise CourseError(f"The roster {path} has {person.student!r} a second time in row {number}.")
        people[person.student] = person
    return people


def _column(header: dict[str, str], names: tuple[str, ...]) -> str:
    return next((header[name] for name in names if name in header), "")


def _person(row: dict, columns: dict[str, str], header: dict[str, str], canvas: bool) -> Person | None:
    """The person of a row; None where it has none."""

    def value(column: str) -> str:
        return (row.get(column) or "").strip() if column else ""

    name = value(header["student"]) if canvas and "student" in header else ""
    name = name or value(_column(header, ("name", "full name", "student name")))
    first, last = _column(header, ("first name", "first_name")), _column(header, ("last name", "last_name", "surname"))
    name = name or f"{value(first)} {value(last)}".strip()
    found = {field: value(column) for field, column in columns.items()}
    if not found["student"] or name.lower() in SKIPPED:
        return None
    return Person(name=name, **found)
