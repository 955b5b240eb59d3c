"""`course drift`: what the newest releases of the libraries would change, before they do."""

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from course_lib.commands import Subparsers
from course_lib.errors import CourseError

DESCRIPTION = """Install the newest releases of the whole stack into an environment of their own, run the parity tests
and the chapters there, and name what drifted: which library, and of it which argument, name or number.

  course drift                         in build/drift, which is made anew; takes half an hour and the network
  course drift --chapters 03 08        these chapters alone
  course drift --chapters none         the parity tests alone
  course drift --here                  in the environment that runs this, whatever its releases are

The exit status is 1 if something drifted. The pins in constraints.txt are what the course installs, so nothing breaks
today. The weekly Drift workflow runs the same. `course run --check-expected` compares a chapter's numbers."""

EXTRAS = "torch,data,book,grading,serve,dev"
OFFLINE = ("NewConnectionError", "NameResolutionError", "Temporary failure in name resolution", "ConnectTimeout")
NOT_FOUND = ("No matching distribution found", "Could not find a version")


def add_parser(subparsers: Subparsers) -> None:
    """Register `course drift` (cheap: nothing heavy is imported before it runs)."""
    parser = subparsers.add_parser(
        "drift",
        help="try the newest releases of the libraries, and name what drifted",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--here", action="store_true", help="look at the running environment, install nothing")
    parser.add_argument("--tests", default="tests/parity", metavar="PATH", help="what pytest runs (tests/parity)")
    parser.add_argument(
        "--chapters", nargs="+", default=["all"], metavar="CHAPTER", help="chapters to run at smoke: all, none or some"
    )
    parser.add_argument("--jobs", default="1", metavar="N", help="tests at a time, and chapters (1)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="logs and reports (default: build/drift)")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="append the tables to this Markdown file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look here, or make the environment and have the same command look there."""
    from course_lib.execution.notebooks.project import find_root

    root = find_root()
    out = (args.out or root / "build" / "drift").resolve()
    out.mkdir(parents=True, exist_ok=True)
    if args.here:
        return _look(args, root, out)
    python = _newest(root, out)
    words = ["--here", "--tests", args.tests, "--chapters", *args.chapters, "--jobs", args.jobs, "--out", str(out)]
    words += ["--summary", str(args.summary.resolve())] if args.summary else []
    sys.stdout.flush()
    os.chdir(root)
    # In place of this process: whoever ends `course drift` then ends the tests as well, which would go on for an hour.
    os.execv(python, [str(python), "-m", "course_lib.cli", "drift", *words])


def _newest(root: Path, out: Path) -> Path:
    """The Python of a new environment with the newest releases.

    Args:
        root: the clone.
        out: where the environment and pip's log go.

    Raises:
        CourseError: the index does not answer, or what it has cannot be installed.
    """
    environment, log = out / "venv", out / "install.log"
    shutil.rmtree(environment, ignore_errors=True)
    print(f"installing the newest releases into {environment} (log: {log})", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, stdin=subprocess.DEVNULL)
    python = environment / "bin" / "python"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [str(python), "course_lib/setup/hosted.py", EXTRAS],
            cwd=root,
            env=os.environ | {"NEWEST": "1"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        raise CourseError(_why_not(log.read_text(encoding="utf-8", errors="replace"), log))
    return python


def _why_not(said: str, log: Path) -> str:
    """What kept pip from installing, in a sentence."""
    if any(sign in said for sign in OFFLINE):
        return "The package index does not answer, and drift shows only in its newest releases: try with a network."
    if missing := [line for line in said.splitlines() if any(sign in line for sign in NOT_FOUND)]:
        return f"The newest releases cannot be had: {missing[-1].strip()}. Is the package index reachable? See {log}."
    last = next((line for line in reversed(said.splitlines()) if "ERROR" in line), "pip failed")
    return f"The newest releases do not go together: {last.strip()}. See {log}."


def _look(args: argparse.Namespace, root: Path, out: Path) -> int:
    """Run tests and chapters in this environment, and print what drifted."""
    from course_lib.execution.drift import by_import_name, diagnose, markdown, versions_drifted
    from course_lib.files import write_json

    packages = versions_drifted(root / "constraints.txt")
    print(f"{len(packages)} packages are not the pinned ones", flush=True)
    said = _tests(args, root, out)
    if args.chapters != ["none"]:
        said |= _chapters(args, root, out)
    changed = by_import_name(packages)
    drifts = [drift for where, text in said.items() for drift in diagnose(where, text, changed)]
    text = markdown(packages, drifts)
    print("\n" + text, end="")
    write_json(out / "drift.json", {"packages": [asdict(p) for p in packages], "drifts": [asdict(d) for d in drifts]})
    if args.summary:
        with args.summary.open("a", encoding="utf-8") as file:
            file.write(text)
    return int(bool(drifts))


def _tests(args: argparse.Namespace, root: Path, out: Path) -> dict[str, str]:
    junit = out / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-n", args.jobs if args.jobs != "1" else "0", args.tests]
    return _run("tests", [*command, f"--junitxml={junit}"], junit, root, out)


def _chapters(args: argparse.Namespace, root: Path, out: Path) -> dict[str, str]:
    junit = out / "chapters.xml"
    chapters = [] if args.chapters == ["all"] else args.chapters
    command = [sys.executable, "-m", "course_lib.cli", "run", *chapters, "--profile", "smoke", "--check-expected"]
    command += ["--jobs", args.jobs, "--out", str(out / "run"), "--junit", str(junit)]
    return _run("chapters", command, junit, root, out)


def _run(name: str, command: list[str], junit: Path, root: Path, out: Path) -> dict[str, str]:
    """Run a command that writes a JUnit report.

    Args:
        name: of its log.
        command: its words.
        junit: the report.
        root: where it runs.
        out: where its log goes.

    Returns:
        What failed: messages by name. A command that failed without a report is one failure itself.
    """
    from course_lib.execution.drift import failures

    junit.unlink(missing_ok=True)
    log = out / f"{name}.log"
    print(f"{name}: running (log: {log})", flush=True)
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    found = failures(junit)
    if done.returncode and not found:
        found = {name: log.read_text(encoding="utf-8", errors="replace")[-4000:]}
    return found
