"""The grades of a class: a table for the terminal and a CSV file for a spreadsheet or an LMS."""

import csv
import io
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from autograder import notebook
from autograder.course import Assignment
from course_lib.errors import printable
from course_lib.files import write_whole

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell that begins so is a formula to a spreadsheet


@dataclass
class Grade:
    """One student's result.

    points: by part; a part that was not graded is absent. problem: why something is missing. note: what the instructor
    should know although nothing is. penalty: what being late costs.
    """

    student: str
    points: dict[str, float] = field(default_factory=dict)
    problem: str = ""
    note: str = ""
    penalty: float = 0.0

    @property
    def total(self) -> float | None:
        """The sum of the points, less the penalty; None where nothing was graded, which is not a zero."""
        return max(0.0, sum(self.points.values()) - self.penalty) if self.points else None


def table(assignment: Assignment, grades: list[Grade]) -> str:
    """One row per student: points part by part, total, and the problem or note if there is one. A dash is a part that
    was not graded.

    Args:
        assignment: Says what parts there are.
        grades: One per student.

    Returns:
        The lines, with a header.
    """
    parts = notebook.parts(assignment.read())
    most = sum(part.points for part in parts)
    rows = [["student", *(f"{i}/{p.points:g}" for i, p in enumerate(parts, start=1)), f"total/{most:g}", ""]]
    for grade in grades:
        points = [f"{grade.points[part.id]:g}" if part.id in grade.points else "-" for part in parts]
        total = "-" if grade.total is None else f"{grade.total:g}"
        remark = "; ".join(filter(None, [grade.problem, grade.note and f"note: {grade.note}"]))
        rows.append([printable(grade.student), *points, total, printable(remark)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def summary(assignment: Assignment, grades: list[Grade]) -> str:
    """One line on the whole class: how many there are, and what they reached.

    Args:
        assignment: Says how many points there are.
        grades: One per student.

    Returns:
        The line.
    """
    totals = [grade.total for grade in grades if grade.total is not None]
    problems = sum(bool(grade.problem) for grade in grades)
    said = f"{len(grades)} submission{'s' * (len(grades) != 1)}, {problems} with a problem"
    if totals:
        most = sum(part.points for part in notebook.parts(assignment.read()))
        said += f"; mean {statistics.mean(totals):.4g} and median {statistics.median(totals):.4g} of {most:g} points"
    return said


def write_csv(path: Path, assignment: Assignment, grades: list[Grade]) -> None:
    """Grades for a spreadsheet or an LMS, quoted as RFC 4180 says, whole at every moment.

    What was not graded is an empty cell. Text that a spreadsheet would compute has an apostrophe in front. Students of
    an earlier run who were not graded now keep their rows.

    Args:
        path: The file, which is replaced.
        assignment: Says what parts there are.
        grades: One per student.
    """
    parts = notebook.parts(assignment.read())
    header = ["student", "assignment", *(part.id for part in parts), "total", "max", "problem", "note"]
    rows = _rows(path, header)
    for grade in grades:
        values = {part.id: grade.points.get(part.id, "") for part in parts}
        values |= {"student": safe(grade.student), "assignment": assignment.name}
        values |= {"total": "" if grade.total is None else grade.total, "max": sum(part.points for part in parts)}
        values |= {"problem": safe(printable(grade.problem)), "note": safe(printable(grade.note))}
        rows[grade.student] = [values[column] for column in header]
    file = io.StringIO()
    csv.writer(file).writerows([header, *(rows[student] for student in sorted(rows))])
    write_whole(path, file.getvalue())


def _rows(path: Path, header: list[str]) -> dict[str, list]:
    """The rows by student of a file that `write_csv` wrote for the same parts; none where there is no such file."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        found, columns = list(reader), reader.fieldnames or []
    if columns == header[:-1]:  # written before there were notes, and empty cells
        for row in found:
            if row["problem"]:
                row.update({column: "" for column in header[2:-3]})
    elif columns != header:
        return {}
    return {_plain(row["student"]): [row.get(column, "") for column in header] for row in found}


def safe(text: str) -> str:
    """The text as no spreadsheet takes it for a formula: with an apostrophe in front, where it needs one."""
    return f"'{text}" if text.lstrip("'").startswith(FORMULA) else text


def _plain(text: str) -> str:
    """The inverse of `safe`."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(FORMULA) else text
