"""`course grades`: what an instructor does with a gradebook."""

import argparse
from pathlib import Path

from autograder.commands.shared import add_assignment, people_of, placed_assignment
from course_lib.commands import Subparsers

FORMATS = ("csv", "canvas", "moodle", "json")  # as `autograder.export` has them
REPORT = """examples:
  course grades report lora                  report-lora.html and report-lora.svg in the course's folder
  course grades report lora --to slides      the same in slides/

The page has each part's mean, how many got all of its points and none of them, and the most common messages of its
tests. It needs no other file, and what students wrote is plain text on it."""
EXPORT = """examples:
  course grades export lora --format csv                         every part, for a spreadsheet
  course grades export lora --format canvas --roster canvas.csv  canvas.csv: what the Canvas gradebook exports
  course grades export lora --format moodle --to grades.csv      Moodle's import looks the students up by username
  course grades export lora --format json                        for a program, with the messages of the tests

Points that a person gave count, and late penalties are taken off. A student of the roster without a grade has an empty
cell; one who is not on the roster is left out and named."""
SIMILAR = """examples:
  course grades similar lora                 pairs that share at least half of what either wrote
  course grades similar lora --least 0.8     only the most similar ones

Names, numbers, texts, comments and layout do not count, nor does what the release gives; what much of the class wrote
counts little. A pair is a reason to read two answers, and no more: students learn together, and small questions have
few good answers."""


def add_parser(subparsers: Subparsers) -> None:
    """Register `course grades` (cheap: nothing heavy is imported before it runs)."""
    raw = argparse.RawDescriptionHelpFormatter
    grades = subparsers.add_parser(
        "grades",
        help="statistics, exports and similar answers (instructors)",
        formatter_class=raw,
        epilog="example:\n  course grades report lora      how the class did, part by part",
    )
    actions = grades.add_subparsers(title="actions", metavar="ACTION", required=True)
    report = actions.add_parser("report", help="how the class did", epilog=REPORT, formatter_class=raw)
    _common(report, _report)
    report.add_argument("--to", type=Path, metavar="FOLDER", help="where the files go (default: COURSE)")

    export = actions.add_parser(
        "export", help="for a learning platform or a spreadsheet", epilog=EXPORT, formatter_class=raw
    )
    _common(export, _export)
    export.add_argument("--format", choices=FORMATS, default="csv", help="(csv)")
    export.add_argument("--roster", type=Path, metavar="FILE", help="who takes the course (default: COURSE/roster.csv)")
    export.add_argument("--to", type=Path, metavar="FILE", help="the file (default: in COURSE, named after both)")

    similar = actions.add_parser("similar", help="pairs of similar answers", epilog=SIMILAR, formatter_class=raw)
    _common(similar, _similar)
    similar.add_argument("--submissions", type=Path, metavar="FOLDER", help="where they are (COURSE/submitted)")
    similar.add_argument("--least", type=_share, default=0.5, metavar="S", help="the least share, 0 to 1 (0.5)")
    similar.add_argument("--most", type=int, default=20, metavar="N", help="how many pairs are listed (20)")


def _common(parser: argparse.ArgumentParser, run: object) -> None:
    add_assignment(parser)
    parser.set_defaults(run=run)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: a number from 0 to 1")
    return value


def _report(args: argparse.Namespace) -> int:
    from autograder import notebook
    from autograder.grading.gradebook.standing import standings
    from autograder.grading.report.page import described, write_report
    from autograder.grading.report.statistics import class_statistics

    assignment, state = placed_assignment(args)
    found = class_statistics(notebook.parts(assignment.read()), standings(assignment, state))
    print(described(found))
    for number, part in enumerate(found.parts, start=1):
        counts = f"{part.full:4} full  {part.none:4} none"
        print(f"{number:3}  {part.mean:5.2f} of {part.part.points:g}  {counts}  {part.part.title}")
        for said, count in part.failures:
            print(f"       {count} × {said}")
    for path in write_report(assignment, found, args.to or state):
        print(path)
    return 0


def _export(args: argparse.Namespace) -> int:
    from autograder.export import export
    from autograder.grading.gradebook.standing import standings
    from course_lib.errors import printable

    assignment, state = placed_assignment(args)
    people = people_of(args.roster, state)
    ending = "json" if args.format == "json" else "csv"
    path = args.to or state / f"{assignment.name}-{args.format}.{ending}"
    left_out = export(assignment, standings(assignment, state), people, args.format, path)
    for student in left_out:
        print(f"left out: {printable(student)} is not on the roster")
    print(path)
    return int(bool(left_out))


def _similar(args: argparse.Namespace) -> int:
    from autograder import notebook
    from autograder.grading.collect.submissions import find_submissions
    from autograder.grading.report.similar import similar_pairs
    from autograder.rebuild import answers
    from autograder.student.release import release
    from course_lib.errors import CourseError, printable

    assignment, state = placed_assignment(args)
    template = release(assignment)
    written = {}
    for student, submission in find_submissions(assignment, args.submissions or state / "submitted").items():
        try:
            written[student] = answers(notebook.read(submission.path), template) if submission.path else {}
        except CourseError as error:
            print(f"not read: {printable(str(error))}")
    pairs = similar_pairs(written, answers(template, template), args.least)
    for pair in pairs[: args.most]:
        same = f"  the same in {', '.join(pair.parts)}" if pair.parts else ""
        print(f"{pair.share:5.0%}  {printable(pair.one)}  {printable(pair.other)}{same}")
    print(f"{len(pairs)} pairs of {len(written)} submissions share at least {args.least:.0%} of what either wrote.")
    return 0
