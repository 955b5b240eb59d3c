"""The form that Moodle imports, which looks students up by username or e-mail address (capitals count)."""

from autograder.course import Assignment
from autograder.export.cells import Rows, total, written
from autograder.grading.collect.roster import Person
from autograder.grading.gradebook.standing import Standing


def text(assignment: Assignment, students: list[str], found: dict[str, Standing], people: dict[str, Person]) -> str:
    """One row per student: username, address, and the total.

    Args:
        assignment: Whose grades they are.
        students: Who is in the file, in this order.
        found: What students have reached; whoever is absent has nothing graded.
        people: The roster by student.

    Returns:
        The file's text.
    """
    rows: Rows = [["Username", "Email address", assignment.name]]
    for student in students:
        person, standing = people.get(student, Person(student)), found.get(student, Standing(student))
        rows.append([student, person.email, total(standing)])
    return written(rows)
