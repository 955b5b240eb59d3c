"""`course assignment` for students and `course grade` for instructors."""

import argparse
from pathlib import Path

from course_lib.commands import Subparsers

STUDENT = """examples:
  course assignment list
  course assignment get lora            lora.ipynb, here
  course assignment check lora          run the visible checks on your answers in lora.ipynb"""

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
    raw = argparse.RawDescriptionHelpFormatter
    student = subparsers.add_parser(
        "assignment", help="list, fetch and check assignments", epilog=STUDENT, formatter_class=raw
    )
    actions = student.add_subparsers(title="actions", metavar="ACTION", required=True)
    actions.add_parser("list", help="what assignments there are").set_defaults(run=_list)

    get = actions.add_parser("get", help="a copy to work on")
    get.add_argument("name", metavar="NAME")
    get.add_argument("--to", type=Path, default=Path(), metavar="FOLDER", help="where to put it (default: here)")
    get.add_argument("--force", action="store_true", help="replace a notebook that is there already")
    get.set_defaults(run=_get)

    check = actions.add_parser("check", help="run the visible checks on your notebook, which is only read")
    check.add_argument(
        "notebook", type=Path, nargs="?", help="its file, or its name (default: the only notebook in this folder)"
    )
    check.set_defaults(run=_check)

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


def _list(_args: argparse.Namespace) -> int:
    from autograder import course, notebook

    for name, assignment in course.assignments().items():
        parts = notebook.parts(assignment.read())
        points = sum(part.points for part in parts)
        print(f"{name:14} {points:g} points in {len(parts)} parts: {assignment.summary()}")
    return 0


def _get(args: argparse.Namespace) -> int:
    from autograder import course
    from autograder.student.release import write_release

    path = write_release(course.find(args.name), args.to, args.force)
    print(f"{path}\n  open it with `jupyter lab {path}`, check it with `course assignment check {path}`")
    return 0


def _check(args: argparse.Namespace) -> int:
    from autograder.student.check import Outcome, check, find_notebook, manual_parts

    def tell(outcome: Outcome) -> None:
        """Print what became of one part."""
        mark = "ok  " if not outcome.message else "FAIL"
        message = "".join(f"\n      {line}" for line in [outcome.message, *outcome.details] if line)
        print(f"{mark}  {outcome.part.title} ({outcome.part.points:g} points){message}", flush=True)

    path = find_notebook(args.notebook)
    print(f"running {path} from the top in a fresh kernel", flush=True)
    outcomes = check(path, tell=tell, say=lambda line: print(f"      {line}", flush=True))
    passed = [outcome for outcome in outcomes if not outcome.message]
    print(f"\n{len(passed)} of {len(outcomes)} parts pass their visible checks; hidden tests decide the points.")
    for part in manual_parts(path):
        print(f"{part.title} ({part.points:g} points): your instructor reads it.")
    return int(len(passed) < len(outcomes))


def _grade(args: argparse.Namespace) -> int:
    from autograder import course
    from autograder.grading.collect import find_submissions
    from autograder.grading.grade import grade, placed
    from autograder.grading.report import table
    from autograder.judging.judge import is_judged
    from autograder.judging.results import NO_SANDBOX

    state = course.state_dir(args.course)
    assignment = placed(course.find(args.name), state)
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
