"""`course run`: the command around `notebooks`."""

import argparse
import sys
from pathlib import Path

from course_lib.commands import Subparsers

EXAMPLES = """examples:
  course run                         every chapter, at the sizes of the book (profile cpu)
  course run 03 --profile smoke      one chapter, in seconds: does it run?
  course run 03 --profile my.toml    your own sizes: copy a profile from course_lib/execution/profiles
  course run --list                  the chapters and the profiles

What comes out, for each chapter, in OUT/CHAPTER: notebook.ipynb (executed), metrics.json (what it recorded, versions,
hardware, time, memory, commit) and outputs/ (what it wrote). A chapter whose text, code, profile and package versions
are those of its last result is skipped. Cells are numbered from 1, text cells too. The notebook of a chapter that
failed is kept, as far as it came, in OUT/.failed, and its last good result stays."""


def add_parser(subparsers: Subparsers) -> None:
    """Register `course run` (cheap: nothing heavy is imported before it runs)."""
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
    parser.add_argument("--profile", default="cpu", help="smoke, cpu, gpu or a TOML file (default: cpu)")
    parser.add_argument("--out", type=Path, help="where results go (default: build/run/PROFILE in the clone)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="chapters at a time (default: 1)")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds a chapter may take (default: no limit)")
    parser.add_argument("--seed", type=int, default=0, help="the seed given to every chapter (default: 0)")
    parser.add_argument("--force", action="store_true", help="execute also what has not changed")
    parser.add_argument("--list", action="store_true", help="list the chapters and the profiles, run nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Execute the chapters that `args` names; 0 if all of them ran."""
    from course_lib.errors import CourseError
    from course_lib.execution.notebooks.project import find_chapters, find_root

    if args.list:
        return _list()
    for name in ("jobs", "timeout"):
        if (value := getattr(args, name)) is not None and value <= 0:
            raise CourseError(f"--{name} {value:g} makes no sense: it must be above 0.")
    chapters = find_chapters(args.chapters)
    out = args.out or find_root() / "build" / "run" / Path(args.profile).stem
    return _run(args, chapters, out)


def _run(args: argparse.Namespace, chapters: list, out: Path) -> int:
    from course_lib.execution.notebooks.runner import Runner, summary

    options = {"seed": args.seed, "timeout": args.timeout, "jobs": args.jobs, "force": args.force}
    results = Runner(out, args.profile, say=_say, **options).run(chapters)
    print("\n" + summary(results) + f"\n\nresults: {out}", flush=True)
    for result in results:
        if result.status == "failed":
            print(f"\ncourse: {result.message}", file=sys.stderr)
    return int(any(result.status == "failed" for result in results))


def _say(line: str) -> None:
    """A whole line in one write: with --jobs several threads speak."""
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
        print(f"  {name:16} {description}")
    return 0
