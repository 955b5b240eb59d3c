"""`course release`: make what students get."""

import argparse

from autograder.commands.shared import add_assignment
from course_lib.commands import Subparsers

RELEASE = """Writes COURSE/release/NAME/NAME.ipynb, the notebook without solutions and hidden tests, and tells the
gradebook of the assignment. Give the notebook to students, or put it into the exchange with `nbgrader
release_assignment NAME`."""


def add_parser(subparsers: Subparsers) -> None:
    """Register the command (cheap: nothing heavy is imported before it runs)."""
    raw = argparse.RawDescriptionHelpFormatter
    release = subparsers.add_parser(
        "release", help="make what students get (instructors)", epilog=RELEASE, formatter_class=raw
    )
    add_assignment(release)
    release.set_defaults(run=_release)


def _release(args: argparse.Namespace) -> int:
    from autograder import course
    from autograder.grading.run.grade import make_release
    from autograder.student.exchange import other_course_name

    state = course.state_dir(args.course)
    path = make_release(course.find(args.name, state), state, say=lambda line: print(line, flush=True))
    print(f"{path}\n  for your students; the exchange takes it with `nbgrader release_assignment {args.name}`")
    if note := other_course_name(state):
        print(f"note: {note}")
    return 0
