"""`course run`: the command around `execution.notebooks`."""

import argparse
import sys
from pathlib import Path

from course_lib.commands import Subparsers

EXAMPLES = """examples:
  course run                         every chapter, at the sizes of the book (profile cpu)
  course run 03 --profile smoke      one chapter, in seconds: does it run?
  course run 03 --set 03_lora.steps=50    one setting in place of the profile's
  course run 03 --profile my.toml    your own sizes: extends = "cpu", and what is different (see `course profile`)
  course run 01 -p instructions /home/me/mine.jsonl    a value for its parameters cell (give whole paths)
  course run --check-expected        the numbers of notebooks/expected/PROFILE? A drift is named
  course run --list                  the chapters and the profiles

For each chapter, OUT/CHAPTER gets notebook.ipynb (the executed notebook), metrics.json (what it recorded, versions,
hardware, time, memory, commit) and outputs/ (what the notebook wrote). A chapter is skipped if its text, its code, its
profile and the package versions are those of its last result. Cells are numbered from 1, and text cells count too. The
notebook of a chapter that failed is kept in OUT/.failed, as far as it came; the last good result stays.

In a terminal there is a bar for each running chapter, with its cell; a log gets one plain line for each cell.

Chapters run side by side, the longest first: one for each core, as long as there is memory for them. Each gets its
share of the cores. A chapter that reads another one's results starts after it, and runs again when that one changed.
The number of threads changes the last digits of a chapter's numbers; profile cpu uses one."""


def add_parser(subparsers: Subparsers) -> None:
    """Register `course run`. This is cheap: nothing heavy is imported before the command runs."""
    parser = subparsers.add_parser(
        "run",
        help="execute chapters headless",
        description="Execute chapter notebooks with papermill.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "chapters", nargs="*", metavar="CHAPTER", help="03, 03_lora or a notebook's path (default: all)"
    )
    parser.add_argument("--profile", default="cpu", help="a name of `course profile list` or a file (default: cpu)")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="TABLE.KEY=VALUE", help="change one setting"
    )
    parser.add_argument("--out", type=Path, help="where results go (default: build/run/PROFILE in the clone)")
    parser.add_argument(
        "--jobs", type=_jobs, default=None, metavar="N", help="chapters at a time (default: auto, by cores and memory)"
    )
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds a chapter may take (default: no limit)")
    parser.add_argument("--cell-timeout", type=float, metavar="S", help="seconds one cell may take (default: no limit)")
    parser.add_argument(
        "-p",
        "--parameter",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="one more value for the chapter's parameters cell, written as in TOML",
    )
    parser.add_argument("--seed", type=int, default=0, help="the seed given to every chapter (default: 0)")
    parser.add_argument("--force", action="store_true", help="execute also what has not changed")
    numbers = parser.add_mutually_exclusive_group()
    numbers.add_argument(
        "--check-expected",
        action="store_true",
        help="compare with notebooks/expected/PROFILE; fail if a number drifted",
    )
    numbers.add_argument("--write-expected", action="store_true", help="make what was recorded the expected numbers")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write a report as JUnit XML, for a CI")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write the table as Markdown")
    parser.add_argument("--list", action="store_true", help="list the chapters and the profiles, run nothing")
    parser.set_defaults(run=run)


def _jobs(text: str) -> int | None:
    """The value of --jobs; None for `auto`."""
    try:
        return None if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor auto") from None


def run(args: argparse.Namespace) -> int:
    """Execute the chapters that `args` names; return 0 if all of them ran."""
    from course_lib.errors import CourseError
    from course_lib.execution.notebooks.project import find_chapters, find_root

    if args.list:
        return _list()
    for name in ("jobs", "timeout", "cell_timeout"):
        value = getattr(args, name)
        if value is not None and not value > 0:  # NaN is not above 0 either
            raise CourseError(
                f"--{name.replace('_', '-')} {value:g} cannot be used. Give a number above 0, or leave the option out."
            )
    if not 0 <= args.seed < 2**32:
        raise CourseError(f"--seed {args.seed} cannot be used. NumPy takes whole numbers from 0 to {2**32 - 1}.")
    chapters = find_chapters(args.chapters)
    if (args.check_expected or args.write_expected) and (args.overrides or args.parameters):
        raise CourseError("Expected numbers are those of a profile as it stands. Leave --set and -p out.")
    out = args.out or find_root() / "build" / "run" / Path(args.profile).stem
    return _run(args, chapters, out)


def _run(args: argparse.Namespace, chapters: list, out: Path) -> int:
    from course_lib.execution.notebooks.parameters import parse_parameters
    from course_lib.execution.notebooks.progress import progress_for
    from course_lib.execution.notebooks.reports import refuse_unwritable, write_reports
    from course_lib.execution.notebooks.results import summary
    from course_lib.execution.notebooks.runner import Runner

    refuse_unwritable({"--junit": args.junit, "--summary": args.summary})  # now, and not after the run
    options = {name: getattr(args, name) for name in ("overrides", "seed", "timeout", "cell_timeout", "jobs", "force")}
    options["parameters"] = parse_parameters(args.parameters)
    progress = progress_for(sys.stdout, _say)
    results = Runner(out, args.profile, progress=progress, **options).run(chapters)
    profile = Path(args.profile).stem
    compared = _expected(args, chapters, results, profile)
    print("\n" + summary(results) + f"\n\nresults: {out}", flush=True)
    for result in results:
        if result.bad:
            print(f"\ncourse: {result.message}", file=sys.stderr)
    write_reports(results, profile, args.junit, args.summary)
    return int(any(result.bad for result in results) or not compared)


def _expected(args: argparse.Namespace, chapters: list, results: list, profile: str) -> bool:
    """Write or compare the expected numbers where that is asked for; False if there was nothing to compare with."""
    from course_lib.execution.notebooks.expected import compare_with_expected, write_expected

    by_id = {chapter.id: chapter for chapter in chapters}
    if args.write_expected:
        for result in results:
            if result.status != "failed":
                _say(f"{result.chapter}  {write_expected(by_id[result.chapter], profile, args.seed, result.recorded)}")
    if not args.check_expected:
        return True
    unknown = compare_with_expected(by_id, results, profile, args.seed)
    if unknown:
        _say(
            f"not compared: {', '.join(unknown)}. There are no expected numbers for profile {profile} and seed "
            f"{args.seed}; --write-expected makes them."
        )
    return len(unknown) < len(results)


def _say(line: str) -> None:
    """Write a whole line at once, because several threads print when chapters run side by side."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _list() -> int:
    from course_lib.execution.notebooks.project import find_chapters
    from course_lib.execution.profile import available_profiles

    print("chapters")
    for chapter in find_chapters([]):
        print(f"  {chapter.id:16} {chapter.title()}")
    print("profiles")
    for name, description in sorted(available_profiles().items()):
        print(f"  {name:20} {description}")
    return 0
