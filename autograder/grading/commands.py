"""The instructor's commands: `course grade`, `course grades` and `course collect`."""

import argparse
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from autograder.grading.grades_commands import add_grades
from course_lib.commands import Subparsers
from course_lib.errors import CourseError

if TYPE_CHECKING:
    from autograder.course import Assignment
    from autograder.grading.policy import Policy
    from autograder.grading.report import Grade

GRADE = """Submissions are read from COURSE/submitted/STUDENT/NAME/NAME.ipynb, or from --submissions FOLDER, where
FOLDER/STUDENT.ipynb, FOLDER/STUDENT/NAME.ipynb and a learning platform's folders are understood too, whatever the
notebooks are called. They are only read; those from elsewhere are copied into COURSE/submitted. The gradebook
(gradebook.db), the graded notebooks (autograded/), the feedback (feedback/) and grades-NAME.csv go to COURSE, which is
autograder/ in a clone. What could not be graded is a dash in the table and an empty cell in the file, not a zero.

A run that was stopped or killed is taken up by the same command: what was graded is not graded again. After a test was
edited in COURSE/source, the same command judges the parts whose tests have changed, and no others.

The exit status is 0 where everything was graded, 1 where something was not, and 2 where nothing could be.

Submissions run in a sandbox (bubblewrap), and the verdicts on judged assignments are decided outside of it. `course
grade` says where an assignment is not judged: its tests run in the submission's own process, so a submission can read
the hidden tests and forge its score.

examples:
  course grade lora                            grade what is in COURSE/submitted
  course grade lora --jobs 2                   two submissions at the same time
  course grade lora --submissions downloads    what a learning platform gave you, unpacked
  course grade lora --student ann --force      one student again
  course grade lora --part 3                   judge part 3 again for everybody, and keep all other points"""

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

RELEASE = """Writes COURSE/release/NAME/NAME.ipynb, the notebook without solutions and hidden tests, and tells the
gradebook of the assignment. Give the notebook to students, or put it into the exchange with `nbgrader
release_assignment NAME`."""

FORGEABLE = (
    "note: the submissions of {name} ran {where}, and its tests ran in the submissions' own processes. A submission"
    " could forge its score: look at what you do not trust."
)


def add_parsers(subparsers: Subparsers) -> None:
    """Register the instructor's commands (cheap: nothing heavy is imported before they run)."""
    raw = argparse.RawDescriptionHelpFormatter
    grade = subparsers.add_parser("grade", help="grade submissions (instructors)", epilog=GRADE, formatter_class=raw)
    grade.add_argument("name", metavar="NAME", help="the assignment")
    grade.add_argument("--submissions", type=Path, metavar="FOLDER", help="where they are (default: COURSE/submitted)")
    add_course(grade)
    grade.add_argument("--student", action="append", default=[], metavar="S", help="only this one; may be repeated")
    grade.add_argument("--jobs", type=_count, default=1, metavar="N", help="submissions at the same time (1)")
    grade.add_argument(
        "--part",
        action="append",
        default=[],
        metavar="P",
        help="judge this part again, by number or id; may be repeated",
    )
    grade.add_argument("--force", action="store_true", help="grade again also what did not change")
    grade.add_argument(
        "--no-sandbox", action="store_true", help="run submissions with your own rights; every report says so"
    )
    grade.add_argument("--no-feedback", action="store_true", help="write no feedback pages now; a later run does")
    grade.set_defaults(run=_grade)
    add_grades(subparsers)
    _add_collect(subparsers)
    release = subparsers.add_parser(
        "release", help="make what students get (instructors)", epilog=RELEASE, formatter_class=raw
    )
    release.add_argument("name", metavar="NAME", help="the assignment")
    add_course(release)
    release.set_defaults(run=_release)


def _add_collect(subparsers: Subparsers) -> None:
    raw = argparse.RawDescriptionHelpFormatter
    collect = subparsers.add_parser(
        "collect", help="collect what students handed in (instructors)", epilog=COLLECT, formatter_class=raw
    )
    collect.add_argument("name", metavar="NAME", help="the assignment")
    collect.add_argument("sources", type=Path, nargs="+", metavar="FROM", help="folders and archives")
    add_course(collect)
    collect.add_argument("--roster", type=Path, metavar="FILE", help="who takes the course (COURSE/roster.csv)")
    collect.set_defaults(run=_collect)


def add_course(parser: argparse.ArgumentParser) -> None:
    """The option that says where the gradebook is."""
    parser.add_argument("--course", type=Path, metavar="COURSE", help="the gradebook's folder (or set COURSE_DIR)")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number, at least 1")
    return int(text)


def _release(args: argparse.Namespace) -> int:
    from autograder import course
    from autograder.grading.grade import make_release
    from autograder.student.exchange import other_course_name

    state = course.state_dir(args.course)
    path = make_release(course.find(args.name, state), state, say=lambda line: print(line, flush=True))
    print(f"{path}\n  for your students; the exchange takes it with `nbgrader release_assignment {args.name}`")
    if note := other_course_name(state):
        print(f"note: {note}")
    return 0


def _grade(args: argparse.Namespace) -> int:
    from autograder import course
    from autograder.grading.collect import find_submissions
    from autograder.grading.grade import grade, placed
    from autograder.grading.progress import progress
    from autograder.grading.report import table

    def say(line: str) -> None:
        print(line, flush=True)

    state = course.state_dir(args.course)
    assignment = placed(course.find(args.name, state), state)
    submissions = find_submissions(assignment, args.submissions or state / "submitted")
    if unknown := [student for student in args.student if student not in submissions]:
        raise CourseError(f"There is no submission of {unknown[0]!r}: there are {', '.join(sorted(submissions))}.")
    chosen = {student: submissions[student] for student in args.student or submissions}
    parts = _part_ids(assignment, args.part)
    _note_policy(state)
    with progress(say) as shown:
        grades = grade(
            assignment,
            chosen,
            state,
            force=args.force,
            sandbox=not args.no_sandbox,
            jobs=args.jobs,
            parts=parts,
            feedback=not args.no_feedback,
            say=shown.say,
            progress=shown,
        )
    print("\n" + table(assignment, grades))
    _conclude(assignment, grades, state, args)
    return int(any(g.problem for g in grades))


def _note_policy(state: Path) -> "Policy | None":
    """The course's policy, after a line for what in it holds for nobody."""
    from autograder import course
    from autograder.grading.policy import read_policy

    policy = read_policy(state)
    for note in policy.notes(course.assignments(state)) if policy is not None else []:
        print(f"note: {note}")
    return policy


def _conclude(assignment: "Assignment", grades: "list[Grade]", state: Path, args: argparse.Namespace) -> None:
    """What is said below the table."""
    from autograder.grading.report import summary
    from autograder.judging.judge import is_judged
    from autograder.judging.results import NO_SANDBOX

    print(f"\n{summary(assignment, grades)}")
    if not is_judged(assignment.read()):
        where = "with your rights" if args.no_sandbox else "in the sandbox"
        print(f"\n{FORGEABLE.format(name=assignment.name, where=where)}")
    if args.no_sandbox:
        print(f"\nWARNING: {NO_SANDBOX}")
    print(f"\ngrades: {state / f'grades-{assignment.name}.csv'}\nfeedback: {state / 'feedback'}")


def _part_ids(assignment: "Assignment", wanted: list[str]) -> list[str]:
    """The grade ids of parts that are named by their numbers or ids."""
    from autograder import notebook
    from autograder.judging.judge import is_judged
    from course_lib.suggestions import did_you_mean

    whole = assignment.read()
    if wanted and not is_judged(whole):
        raise CourseError(
            f"--part is for judged assignments: the tests of {assignment.name} run together, in the order of the"
            " notebook. Leave the option out: what changed is graded again."
        )
    known = {part.id: str(number) for number, part in enumerate(notebook.parts(whole), start=1) if not part.manual}
    found = []
    for each in wanted:
        names = [name for name, number in known.items() if each in (number, name, name.removeprefix("check-"))]
        if not names:
            listed = ", ".join(f"{number} ({name})" for name, number in known.items())
            raise CourseError(f"{assignment.name} has no part {each!r}: there are {listed}.{did_you_mean(each, known)}")
        found += names
    return found


def _collect(args: argparse.Namespace) -> int:
    from autograder import course
    from autograder.grading.gather import gather
    from autograder.grading.grade import placed
    from autograder.grading.grades_commands import people_of
    from autograder.grading.late import in_words
    from course_lib.errors import printable

    state = course.state_dir(args.course)
    assignment = placed(course.find(args.name, state), state)
    found = gather(assignment, args.sources, state, people_of(args.roster, state), _note_policy(state))
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
