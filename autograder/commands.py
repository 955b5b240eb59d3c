"""`course assignment` for students and `course grade` for instructors."""

import argparse
from pathlib import Path

from autograder.student.commands import add_parser as add_student_commands
from course_lib.commands import Subparsers

INSTRUCTOR = """Submissions are read from COURSE/submitted/STUDENT/NAME/NAME.ipynb, or from --submissions FOLDER, where
FOLDER/STUDENT.ipynb, FOLDER/STUDENT/NAME.ipynb and a learning platform's folders are understood too, whatever the
notebooks are called. They are only read; those from elsewhere are copied into COURSE/submitted. The gradebook
(gradebook.db), the graded notebooks (autograded/), the feedback (feedback/) and grades-NAME.csv go to COURSE, which is
autograder/ in a clone. What could not be graded is a dash in the table and an empty cell in the file, not a zero.

The exit status is 0 where everything was graded, 1 where something was not, and 2 where nothing could be.

Submissions of kv_cache and qlora run in a sandbox (bubblewrap), and the verdicts are decided outside of it. Those of
the other assignments are run as you, and their tests run in the same process: grade only what you would run yourself,
and hand out their feedback pages, which show the hidden tests, when nobody can submit any more."""


FORGEABLE = (
    "note: the tests of {name} ran in the submissions' own processes, with your rights. A submission could forge its"
    " score: look at what you do not trust."
)


def add_parser(subparsers: Subparsers) -> None:
    """Register both commands (cheap: nothing heavy is imported before they run)."""
    add_student_commands(subparsers)
    raw = argparse.RawDescriptionHelpFormatter
    grade = subparsers.add_parser(
        "grade", help="grade submissions (instructors)", epilog=INSTRUCTOR, formatter_class=raw
    )
    grade.add_argument("name", metavar="NAME", help="the assignment")
    grade.add_argument("--submissions", type=Path, metavar="FOLDER", help="where they are (default: COURSE/submitted)")
    grade.add_argument("--course", type=Path, metavar="COURSE", help="the gradebook's folder (or set COURSE_DIR)")
    grade.add_argument("--force", action="store_true", help="grade again also what did not change")
    grade.add_argument(
        "--no-sandbox", action="store_true", help="run judged submissions with your own rights; every report says so"
    )
    grade.set_defaults(run=_grade)


def _grade(args: argparse.Namespace) -> int:
    from autograder import course
    from autograder.grading.collect import find_submissions
    from autograder.grading.grade import grade, placed
    from autograder.grading.report import table
    from autograder.judging.judge import is_judged
    from autograder.judging.results import NO_SANDBOX

    state = course.state_dir(args.course)
    assignment = placed(course.find(args.name, state), state)
    submissions = find_submissions(assignment, args.submissions or state / "submitted")
    sandbox = not args.no_sandbox

    def say(line: str) -> None:
        print(line, flush=True)

    grades = grade(assignment, submissions, state, force=args.force, sandbox=sandbox, say=say)
    print("\n" + table(assignment, grades))
    if not is_judged(assignment.read()):
        print(f"\n{FORGEABLE.format(name=args.name)}")
    elif args.no_sandbox:
        print(f"\nWARNING: {NO_SANDBOX}")
    print(f"\ngrades: {state / f'grades-{assignment.name}.csv'}\nfeedback: {state / 'feedback'}")
    return int(any(g.problem for g in grades))
