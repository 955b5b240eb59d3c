"""All that is known of the grades, for a program."""

import json

from autograder import notebook
from autograder.course import Assignment
from autograder.grading.collect.roster import Person
from autograder.grading.gradebook.standing import Standing


def text(assignment: Assignment, students: list[str], found: dict[str, Standing], people: dict[str, Person]) -> str:
    """The parts, and each student's points, penalty, total and messages; null where nothing was graded.

    Args:
        assignment: Whose grades they are.
        students: Who is in the file, in this order.
        found: What students have reached; whoever is absent has nothing graded.
        people: The roster by student.

    Returns:
        The file's text.
    """
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
