"""What four students have reached in the small judged assignment: all, a part, less a penalty, and nothing graded."""

from autograder.grading.gradebook.standing import Standing

SCRIPT = "<script>alert(1)</script>"


def standing(student, right, **more):
    """A student who has some parts right, and no points in the others."""
    points = {"check-double": 2, "check-scaled": 3, "check-attend": 2, "check-heads": 1, "check-counter": 2}
    return Standing(student, {part: value if part in right else 0.0 for part, value in points.items()}, **more)


def four_students():
    """Their standings; one name would be a formula, and one message a script."""
    wrong = {"check-double": f"double is off by 3 {SCRIPT}", "check-scaled": "nothing"}
    also = {"check-double": f"double is off by 41.5 {SCRIPT}"}
    return [
        standing("ann", ["check-double", "check-scaled", "check-attend", "check-heads", "check-counter"]),
        standing("=cmd()", ["check-attend"], messages=wrong),
        standing("carl", ["check-scaled", "check-attend"], messages=also, penalty=1.0),
        Standing("dora"),
    ]
