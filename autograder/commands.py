"""The commands of the grader: `course assignment` for students, and those of `grading` for instructors."""

from autograder.grading import commands as grading
from autograder.student import commands as student
from course_lib.commands import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Register all commands (cheap: nothing heavy is imported before they run)."""
    student.add_parser(subparsers)
    grading.add_parsers(subparsers)
