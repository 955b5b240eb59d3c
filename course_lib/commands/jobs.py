"""`course jobs`: what was submitted from this clone, and what became of it."""

import argparse
import shutil
from itertools import takewhile
from pathlib import Path
from typing import Any

from course_lib.commands import Subparsers
from course_lib.commands.submit import jobs_folder
from course_lib.errors import CourseError

DESCRIPTION = """The jobs that `course submit` has sent to Slurm from this clone.

  course jobs                      all of them, with their state
  course jobs logs 4711            what the job wrote (its last lines: --lines N)
  course jobs cancel 4711          the job, with all legs of its chain
  course jobs collect 4711 --to results    copy its output, script and record, and the chapters it executed"""


def add_parser(subparsers: Subparsers) -> None:
    """Register `course jobs` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "jobs",
        help="the jobs on a cluster: list, logs, cancel, collect",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", nargs="?", choices=["list", "logs", "cancel", "collect"], default="list")
    parser.add_argument("job", nargs="?", metavar="JOB", help="a job's number")
    parser.add_argument("--lines", type=int, default=40, metavar="N", help="logs: how many last lines (40; 0: all)")
    parser.add_argument("--to", type=Path, metavar="DIR", help="collect: a new folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List, or look after one job."""
    from course_lib.execution.notebooks.project import find_root
    from course_lib.execution.slurm.jobs import records

    root = find_root()
    found = records(jobs_folder(root))
    if args.action == "list":
        return _list(found)
    folder, record = _find(found, args.job)
    if args.action == "logs":
        return _logs(folder, record, args.lines)
    if args.action == "cancel":
        from course_lib.execution.slurm.jobs import cancel

        cancel(record)
        print(f"cancelled {', '.join(record['jobs'])}")
        return 0
    return _collect(root, folder, record, args.to)


def _find(found: dict[Path, dict[str, Any]], number: str | None) -> tuple[Path, dict[str, Any]]:
    if number is None:
        raise CourseError("Give the number of a job: `course jobs` lists them.")
    for folder, record in found.items():
        if number.partition("_")[0] in record["jobs"]:
            return folder, record
    raise CourseError(f"Job {number} was not submitted from this clone. `course jobs` lists those that were.")


def _list(found: dict[Path, dict[str, Any]]) -> int:
    from course_lib.execution.slurm.jobs import states, why_it_waits

    if not found:
        print("nothing has been submitted from this clone yet: see course submit --help")
        return 0
    print(f"{'job':>10}  {'state':12} {'name':16} {'site':12} {'partition':14} submitted")
    for record in found.values():
        for number, state in states(record["jobs"]).items():
            reason = why_it_waits(number) if state == "PENDING" else ""
            about = f"{record['name']:16} {record['site']:12} {record['partition']:14} {record['submitted'][:16]}"
            print(f"{number:>10}  {state:12} {about}{'  ' + reason if reason else ''}")
    return 0


def _logs(folder: Path, record: dict[str, Any], lines: int) -> int:
    from course_lib.execution.slurm.causes import verdict
    from course_lib.execution.slurm.jobs import outputs, states

    written: dict[str, list[Path]] = {number: [] for number in record["jobs"]}
    for path in outputs(folder):  # 4711.out, or 4711_0.out of an array
        written.setdefault(path.stem.partition("_")[0], []).append(path)
    found = states(list(written))
    for number, paths in written.items():
        if not paths:
            print(_silence(number, found[number]))
        for path in paths:
            text = path.read_text(encoding="utf-8", errors="replace")
            print("\n".join([f"==> {path.name}", *text.splitlines()[-lines:]]))
            # The state of an array is that of one element only: its elements' outputs have to speak for themselves.
            if said := verdict(text, "" if record["array"] else found[number]):
                print(f"course: {said}")
    return 0


def _silence(number: str, state: str) -> str:
    """Why a job has no output."""
    from course_lib.execution.slurm.jobs import why_it_waits

    if state == "PENDING":
        return f"job {number} is PENDING ({why_it_waits(number) or 'no reason given'}) and has written nothing yet"
    if state == "CANCELLED":
        return (
            f"job {number} is CANCELLED and has written nothing: it was cancelled before it started, with `course jobs "
            "cancel` or scancel, or because the job that it waited for did not end well"
        )
    return f"job {number} is {state} and has written nothing yet"


def _collect(root: Path, folder: Path, record: dict[str, Any], to: Path | None) -> int:
    if to is None:
        raise CourseError("Where to? Give --to with a new folder.")
    if to.exists():
        raise CourseError(f"{to} exists already, and nothing is overwritten: give another folder.")
    from course_lib.execution.slurm.jobs import ENDED, states

    open_legs = [number for number, state in states(record["jobs"]).items() if state not in (*ENDED, "UNKNOWN")]
    if open_legs:
        raise CourseError(f"{', '.join(open_legs)} has not ended yet: see `course jobs`, or cancel it.")
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of an attempt that was interrupted
    shutil.copytree(folder, partial)
    if record["command"][0] == "run":
        profile = Path(record["command"][record["command"].index("--profile") + 1]).stem
        results = root / "build" / "run" / profile
        named = takewhile(lambda word: not word.startswith("--"), record["command"][1:])  # what follows are options
        chapters = record["array"] or list(named)
        for path in results.glob("*") if results.is_dir() else []:
            if not path.name.startswith(".") and (not chapters or path.name in chapters):
                shutil.copytree(path, partial / path.name)
    partial.rename(to)
    print(f"{to}: {', '.join(sorted(path.name for path in to.iterdir()))}")
    return 0
