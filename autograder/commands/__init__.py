"""The grader's commands, one file each: `course assignment` for students, and those of the instructor."""

from autograder.commands import assignment, collect, grade, grades, release
from course_lib.commands import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Register all commands (cheap: nothing heavy is imported before they run)."""
    for verb in (assignment, grade, grades, collect, release):
        verb.add_parser(subparsers)
