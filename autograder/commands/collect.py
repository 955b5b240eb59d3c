"""`course collect`: take in what students handed in."""

import argparse
from datetime import timedelta
from pathlib import Path

from autograder.commands.shared import add_course, note_policy, people_of, placed_assignment
from course_lib.commands import Subparsers

COLLECT = """Takes the notebooks of one assignment out of folders, zip and tar files, and zip files of zip files, named
as Canvas, Moodle and nbgrader's exchange name them, or STUDENT/NAME/NAME.ipynb, STUDENT/NAME.ipynb and STUDENT.ipynb.
Every attempt is kept in COURSE/collected; the one that counts goes to COURSE/submitted, where `course grade` finds it.
What is collected twice is one attempt, so the next download may have all of the last one in it.

The roster is a CSV file with a column student (and name, email), or what Canvas or Moodle exports. With it, names that
are not on it and students without a submission are listed. COURSE/policy.toml says when an assignment is due, how many
attempts count, and what being late costs. Without a timestamp.txt, the time when a file was changed counts: collect
from the archive, since unpacking one changes these times.

An archive with links, with names that lead out of it, or that grows without measure is refused.

The exit status is 0 where everything was taken, 1 where something was refused or is of an unknown student.

examples:
  course collect lora submissions.zip --roster canvas.csv
  course collect lora downloads/ mails/ --roster class.csv

COURSE/policy.toml:
  timezone = "Europe/Berlin"
  [lora]
  due = "2026-12-01 23:59"      or with a zone of its own: "2026-12-01 23:59+02:00"
  attempts = 3                  the first three count
  keep = "latest"               or "latest-in-time"
  grace_minutes = 10
  percent_per_day = 10          of the assignment's points, for each day that has begun
  lowest_percent = 40           a late submission keeps this much, where it has it
  closed_after_days = 7         then it counts nothing
  [lora.students.ann]           an extension, and extra attempts
  due = "2026-12-08 23:59"
  attempts = 5"""


def add_parser(subparsers: Subparsers) -> None:
    """Register the command (cheap: nothing heavy is imported before it runs)."""
    raw = argparse.RawDescriptionHelpFormatter
    collect = subparsers.add_parser(
        "collect", help="collect what students handed in (instructors)", epilog=COLLECT, formatter_class=raw
    )
    collect.add_argument("name", metavar="NAME", help="the assignment")
    collect.add_argument("sources", type=Path, nargs="+", metavar="FROM", help="folders and archives")
    add_course(collect)
    collect.add_argument("--roster", type=Path, metavar="FILE", help="who takes the course (COURSE/roster.csv)")
    collect.set_defaults(run=_collect)


def _collect(args: argparse.Namespace) -> int:
    from autograder.grading.collect.gather import gather
    from autograder.grading.gradebook.late import in_words
    from course_lib.errors import printable

    assignment, state = placed_assignment(args)
    found = gather(assignment, args.sources, state, people_of(args.roster, state), note_policy(state))
    for student, attempt in found.chosen.items():
        late = f"late by {in_words(timedelta(seconds=attempt.late))}" if attempt.late else "in time"
        more = found.not_counted.get(student, 0)
        extra = f"; {more} beyond those allowed not counted" if more else ""
        count = f"{found.attempts[student]} attempt{'s' * (found.attempts[student] != 1)}"
        print(f"{printable(student)}  {attempt.time:%Y-%m-%d %H:%M} UTC, {late}  ({count}{extra})")
    for name in found.unknown:
        print(f"unknown: {name} is not on the roster, and nothing of theirs was taken")
    for name, why in found.refused.items():
        print(f"refused: {printable(name)} {printable(why)}")
    for student in found.missing:
        print(f"missing: {printable(student)} has handed in nothing")
    folder = f" --course {args.course}" if args.course else ""
    print(
        f"\nhanded in: {len(found.chosen)}, missing: {len(found.missing)}, unknown: {len(found.unknown)}, refused"
        f" files: {len(found.refused)}\nNext: course grade {assignment.name}{folder}"
    )
    return int(bool(found.unknown or found.refused))
