"""`course grade`: grade a class."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from autograder.commands.shared import add_course, note_policy, placed_assignment
from course_lib.commands import Subparsers
from course_lib.errors import CourseError
from course_lib.options import count

if TYPE_CHECKING:
    from autograder.course import Assignment
    from autograder.grading.report.table import Grade

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

FORGEABLE = (
    "note: the submissions of {name} ran {where}, and its tests ran in the submissions' own processes. A submission"
    " could forge its score: look at what you do not trust."
)


def add_parser(subparsers: Subparsers) -> None:
    """Register the command (cheap: nothing heavy is imported before it runs)."""
    raw = argparse.RawDescriptionHelpFormatter
    grade = subparsers.add_parser("grade", help="grade submissions (instructors)", epilog=GRADE, formatter_class=raw)
    grade.add_argument("name", metavar="NAME", help="the assignment")
    grade.add_argument("--submissions", type=Path, metavar="FOLDER", help="where they are (default: COURSE/submitted)")
    add_course(grade)
    grade.add_argument("--student", action="append", default=[], metavar="S", help="only this one; may be repeated")
    grade.add_argument("--jobs", type=count, default=1, metavar="N", help="submissions at the same time (1)")
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


def _grade(args: argparse.Namespace) -> int:
    from autograder.grading.collect.submissions import find_submissions
    from autograder.grading.report.table import table
    from autograder.grading.run.grade import grade
    from autograder.grading.run.progress import progress

    def say(line: str) -> None:
        print(line, flush=True)

    assignment, state = placed_assignment(args)
    submissions = find_submissions(assignment, args.submissions or state / "submitted")
    if unknown := [student for student in args.student if student not in submissions]:
        raise CourseError(f"There is no submission of {unknown[0]!r}: there are {', '.join(sorted(submissions))}.")
    chosen = {student: submissions[student] for student in args.student or submissions}
    parts = _part_ids(assignment, args.part)
    note_policy(state)
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


def _conclude(assignment: "Assignment", grades: "list[Grade]", state: Path, args: argparse.Namespace) -> None:
    """What is said below the table."""
    from autograder.grading.report.table import summary
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
