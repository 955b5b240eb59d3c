"""A table of all parts, for a spreadsheet."""

from autograder import notebook
from autograder.course import Assignment
from autograder.export.cells import Rows, total, written
from autograder.grading.collect.roster import Person
from autograder.grading.gradebook.standing import Standing


def text(assignment: Assignment, students: list[str], found: dict[str, Standing], people: dict[str, Person]) -> str:
    """One row per student: points part by part, penalty, total and maximum.

    Args:
        assignment: Whose grades they are.
        students: Who is in the file, in this order.
        found: What students have reached; whoever is absent has nothing graded.
        people: The roster by student.

    Returns:
        The file's text.
    """
    parts = notebook.parts(assignment.read())
    rows: Rows = [["student", "name", "email", *(part.id for part in parts), "late penalty", "total", "max"]]
    for student in students:
        person, standing = people.get(student, Person(student)), found.get(student, Standing(student))
        points = [standing.points.get(part.id, "") for part in parts]
        rest = [standing.penalty or "", total(standing), sum(part.points for part in parts)]
        rows.append([student, person.name, person.email, *points, *rest])
    return written(rows)
