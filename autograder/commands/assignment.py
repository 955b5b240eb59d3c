"""`course assignment`: what students type, and what those type who write assignments."""

import argparse
import json
from pathlib import Path
from typing import Any

STUDENT = """examples:
  course assignment list
  course assignment get lora                    lora.ipynb, here
  course assignment check lora                  run the visible checks on your answers in lora.ipynb
  course assignment check lora --part 3         one part, by its number or its name
  course assignment check lora --watch          again after each save, what has changed; Ctrl-C ends it
  course assignment submit lora                 an archive to hand in, with a receipt; or the nbgrader exchange"""

SUBMIT = """The archive holds the notebook (without outputs, which no grading reads), the time, and a receipt. It is
written beside the notebook, and never over an earlier one. Where nbgrader is configured for an exchange, the
notebook goes there instead; --archive makes the archive all the same.

A notebook is refused where given cells are missing or were edited so that the checks you ran are not the ones you will
be graded by; the message names them. --repair puts the given cells back as they were."""


def add_parser(subparsers: Any) -> None:
    """Register the command (cheap: nothing heavy is imported before it runs)."""
    raw = argparse.RawDescriptionHelpFormatter
    student = subparsers.add_parser(
        "assignment", help="list, fetch, check and hand in assignments", epilog=STUDENT, formatter_class=raw
    )
    actions = student.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="what assignments there are")
    listing.add_argument("--json", action="store_true", help="for programs: names, points, parts, hours")
    listing.set_defaults(run=_list)

    get = actions.add_parser("get", help="a copy to work on")
    get.add_argument("name", metavar="NAME")
    get.add_argument("--to", type=Path, default=Path(), metavar="FOLDER", help="where to put it (default: here)")
    get.add_argument("--force", action="store_true", help="replace a notebook that is there already")
    get.set_defaults(run=_get)

    check = actions.add_parser("check", help="run the visible checks on your notebook, which is only read")
    _add_notebook(check)
    check.add_argument("--part", metavar="N", help="check this part alone: its number, or its name")
    check.add_argument("--watch", action="store_true", help="check again after each save, until Ctrl-C")
    check.set_defaults(run=_check)

    submit = actions.add_parser(
        "submit", help="pack what you hand in, with a receipt", epilog=SUBMIT, formatter_class=raw
    )
    _add_notebook(submit)
    submit.add_argument("--to", type=Path, metavar="FOLDER", help="where the archive goes (default: to the notebook)")
    submit.add_argument("--student", metavar="ID", help="your id, for the archive's name and the receipt")
    submit.add_argument("--repair", action="store_true", help="put missing and edited given cells back")
    submit.add_argument("--archive", action="store_true", help="make an archive although there is an exchange")
    submit.set_defaults(run=_submit)
    _add_authoring(actions)


def _add_notebook(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "notebook",
        type=Path,
        nargs="?",
        metavar="NAME",
        help="the assignment, or its file (default: the only notebook in this folder)",
    )


def _add_authoring(actions: Any) -> None:
    """What those type who write an assignment."""
    new = actions.add_parser("new", help="a template for an assignment of your own (instructors)")
    verify = actions.add_parser("verify", help="try an assignment's source as grading will (instructors)")
    for parser, run in ((new, _new), (verify, _verify)):
        parser.add_argument("name", metavar="NAME", help="small letters, digits and _")
        parser.add_argument(
            "--course", type=Path, metavar="COURSE", help="the course's folder (or set COURSE_DIR): COURSE/source/NAME"
        )
        parser.set_defaults(run=run)


def _list(args: argparse.Namespace) -> int:
    from autograder import course, notebook

    rows = []
    for name, assignment in course.assignments().items():
        source = assignment.read()
        parts, about = notebook.parts(source), source.metadata.get("course", {})
        row = {"name": name, "points": sum(part.points for part in parts), "parts": len(parts)}
        row |= {"manual": sum(part.manual for part in parts), "hours": about.get("hours")}
        rows.append(row | {"chapter": about.get("chapter"), "summary": about.get("summary", "")})
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        time = f", about {row['hours']:g} h" if row["hours"] else ""
        print(f"{row['name']:14} {row['points']:g} points in {row['parts']} parts{time}: {row['summary']}")
    return 0


def _get(args: argparse.Namespace) -> int:
    from autograder import course
    from autograder.student.release import write_release

    path = write_release(course.find(args.name), args.to, args.force)
    print(f"{path}\n  open it with `jupyter lab {path}`, check it with `course assignment check {path}`")
    return 0


def _check(args: argparse.Namespace) -> int:
    from autograder.judging.warm import Warm
    from autograder.student.check import Outcome, check, find_notebook, manual_parts
    from autograder.student.watch import summary, watch

    def tell(outcome: Outcome) -> None:
        """Print what became of one part."""
        mark = "ok  " if not outcome.message else "FAIL"
        said = "\n".join([outcome.message, *outcome.details]).splitlines()
        message = "".join(f"\n      {line}" for line in said if line)
        print(f"{mark}  {outcome.part.title} ({_points(outcome.part.points)}){message}", flush=True)

    def say(line: str) -> None:
        print(line, flush=True)

    def run(tell: Any = lambda outcome: None, warm: Warm | None = None) -> list[Outcome]:
        return check(path, tell=tell, say=lambda line: say(f"      {line}"), part=args.part, warm=warm)

    path = find_notebook(args.notebook)
    say(f"running {path} from the top in a fresh process")
    if args.watch:
        with Warm(one_student=True) as warm:
            watch(path, lambda: run(warm=warm), tell, say)
        return 0
    outcomes = run(tell)
    say(f"\n{summary(outcomes)}; hidden tests decide the points.")
    for part in [] if args.part else manual_parts(path):
        say(f"{part.title} ({_points(part.points)}): your instructor reads it.")
    return int(any(outcome.message for outcome in outcomes))


def _points(number: float) -> str:
    return f"{number:g} point{'' if number == 1 else 's'}"


def _submit(args: argparse.Namespace) -> int:
    from autograder.student import exchange
    from autograder.student.check import find_notebook
    from autograder.student.submit import pack, prepare, receipt_text

    path = find_notebook(args.notebook)
    prepared = prepare(path, repair=args.repair)
    for line in prepared.notes:
        print(f"note: {line}")
    found = None if args.archive else exchange.configured()
    if found is not None:
        receipt = exchange.submit(prepared, found, args.to or path.parent)
    else:
        receipt = pack(prepared, args.to or path.parent, args.student)
    print(receipt_text(receipt))
    return 0


def _new(args: argparse.Namespace) -> int:
    from autograder import course
    from autograder.authoring.new import write_template

    path = write_template(args.name, course.state_dir(args.course))
    where = f" --course {args.course}" if args.course else ""
    print(f"{path}\n  edit it with `jupyter lab {path}`, try it with `course assignment verify {args.name}{where}`")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from autograder import course
    from autograder.authoring.verify import verify

    assignment = course.find(args.name, course.state_dir(args.course) if args.course else None)
    problems = verify(assignment, say=lambda line: print(line, flush=True))
    print(f"\n{assignment.path}: " + (f"{len(problems)} problems" if problems else "ready to be released"))
    return int(bool(problems))
