"""`course assignment` for students; the commands for instructors are in `grading.commands`."""

import argparse
from pathlib import Path

from autograder.grading import commands as grading
from course_lib.commands import Subparsers

STUDENT = """examples:
  course assignment list
  course assignment get lora            lora.ipynb, here
  course assignment check lora          run the visible checks on your answers in lora.ipynb"""


def add_parser(subparsers: Subparsers) -> None:
    """Register all commands (cheap: nothing heavy is imported before they run)."""
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

    grading.add_parsers(subparsers)


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
