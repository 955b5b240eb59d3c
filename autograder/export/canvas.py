"""The form that Canvas imports, which knows a student by its own numbers."""

from autograder import notebook
from autograder.course import Assignment
from autograder.export.cells import Rows, total, written
from autograder.grading.collect.roster import Person
from autograder.grading.gradebook.standing import Standing


def text(assignment: Assignment, students: list[str], found: dict[str, Standing], people: dict[str, Person]) -> str:
    """Canvas's own five columns, then the assignment, and a row with the points possible.

    Args:
        assignment: Whose grades they are.
        students: Who is in the file, in this order.
        found: What students have reached; whoever is absent has nothing graded.
        people: The roster by student.

    Returns:
        The file's text.
    """
    most = sum(part.points for part in notebook.parts(assignment.read()))
    rows: Rows = [["Student", "ID", "SIS User ID", "SIS Login ID", "Section", assignment.name]]
    rows.append(["    Points Possible", "", "", "", "", most])
    for student in students:
        person = people[student]
        known = [person.name or student, person.lms_id, person.sis_id, student, person.section]
        rows.append([*known, total(found.get(student, Standing(student)))])
    return written(rows)
