"""What the instructor's commands share: the course's folder, its policy and its roster."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autograder.course import Assignment
    from autograder.grading.collect.policy import Policy
    from autograder.grading.collect.roster import Person


def add_course(parser: argparse.ArgumentParser) -> None:
    """The option that says where the gradebook is."""
    parser.add_argument("--course", type=Path, metavar="COURSE", help="the gradebook's folder (or set COURSE_DIR)")


def add_assignment(parser: argparse.ArgumentParser) -> None:
    """The assignment, and the course's folder."""
    parser.add_argument("name", metavar="NAME", help="the assignment")
    add_course(parser)


def placed_assignment(args: argparse.Namespace) -> "tuple[Assignment, Path]":
    """The assignment that is named, with its source in the course's folder, and that folder."""
    from autograder import course
    from autograder.grading.run.grade import placed

    state = course.state_dir(args.course)
    return placed(course.find(args.name, state), state), state


def note_policy(state: Path) -> "Policy | None":
    """The course's policy, after a line for what in it holds for nobody."""
    from autograder import course
    from autograder.grading.collect.policy import read_policy

    policy = read_policy(state)
    for note in policy.notes(course.assignments(state)) if policy is not None else []:
        print(f"note: {note}")
    return policy


def people_of(roster: Path | None, state: Path) -> "dict[str, Person]":
    """The roster that is named, or the course's own; nobody where there is neither.

    Args:
        roster: The file, where one is named.
        state: The course's folder.

    Returns:
        The people by student.
    """
    from autograder.grading.collect.roster import NAME, read_roster

    if roster is None and not (state / NAME).is_file():
        return {}
    return read_roster(roster or state / NAME)
