"""`course grade` beside `nbgrader autograde`: a folder of honest submissions, in turn, each side in its own process."""

import copy
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from course_lib.benchmarks.timing import paired
from course_lib.errors import CourseError

STOCK = 'c = get_config()\nc.CourseDirectory.course_id = "stock"\nc.Execute.timeout = 300\n'
MARKS = re.compile(r"^\s*### (?:BEGIN|END) SOLUTION *\n?", re.M)
NBGRADER = [sys.executable, "-m", "nbgrader"]
COURSE = [sys.executable, "-m", "course_lib.cli"]


def bench_grading(name: str, submissions: int, jobs: int, pairs: int) -> dict[str, float]:
    """Grade a class of honest answers with both programs, from the same folder, and compare.

    Both begin with a release and an empty gradebook, and neither writes feedback, which nbgrader's command does not.
    nbgrader has its own configuration, and runs the tests in the submission's process; ours has its sandbox, where the
    assignment is judged.

    Args:
        name: The assignment.
        submissions: How many there are; one is a copy of the other.
        jobs: How many ours evaluates at the same time.
        pairs: How often each side grades the class.

    Returns:
        Seconds of both, the ratio of theirs to ours, and the points of each side's first student, which must agree.

    Raises:
        CourseError: There is no such assignment, nbgrader is not installed, or a side did not grade everybody.
    """
    with tempfile.TemporaryDirectory(prefix="course-bench-") as folder:
        prepared = Path(folder) / "prepared"
        source = _prepare(name, submissions, prepared)
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        grade = [*COURSE, "grade", name, "--course", str(ours), "--jobs", str(jobs), "--no-feedback"]
        autograde = [*NBGRADER, "autograde", name]
        measured = paired(_grading(grade, prepared, ours), _grading(autograde, prepared, theirs), pairs, warm_up=0)
        return {
            "submissions": submissions,
            "jobs": jobs,
            "judged in a sandbox (1) or not (0)": float(bool(source["metadata"].get("course", {}).get("judged"))),
            "course grade, s": measured.ours_s,
            "nbgrader autograde, s": measured.theirs_s,
            "nbgrader / course": 1 / measured.ratio,
            "course grade, points of all": _points(ours, submissions),
            "nbgrader autograde, points of all": _points(theirs, submissions),
        }


def _prepare(name: str, submissions: int, folder: Path) -> dict[str, Any]:
    """A course with the assignment's release and a class; the assignment's source is returned."""
    found = importlib.util.find_spec("autograder")
    roots = found.submodule_search_locations if found else None
    path = Path((roots or [""])[0]) / "source" / name / f"{name}.ipynb"
    if not path.is_file():
        raise CourseError(f"There is no assignment {name!r}: `course assignment list` names them.")
    if importlib.util.find_spec("nbgrader") is None:
        raise CourseError("nbgrader is not installed: pip install '.[grading]'")
    shutil.copytree(path.parent, folder / "source" / name)
    (folder / "nbgrader_config.py").write_text(STOCK)
    _run([*NBGRADER, "generate_assignment", name], folder)
    source = json.loads(path.read_text(encoding="utf-8"))
    release = json.loads((folder / "release" / name / path.name).read_text(encoding="utf-8"))
    answered = json.dumps(_answered(release, source))
    for number in range(submissions):
        place = folder / "submitted" / f"student{number:03}" / name
        place.mkdir(parents=True)
        (place / path.name).write_text(answered, encoding="utf-8")
    return source


def _answered(release: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
    """The release with the answers of the source."""
    right = {_grade_id(cell): "".join(cell["source"]) for cell in source["cells"] if _is_solution(cell)}
    filled = copy.deepcopy(release)
    for cell in filled["cells"]:
        if _is_solution(cell):
            cell["source"] = MARKS.sub("", right[_grade_id(cell)])
    return filled


def _grade_id(cell: dict[str, Any]) -> str:
    return cell["metadata"].get("nbgrader", {}).get("grade_id", "")


def _is_solution(cell: dict[str, Any]) -> bool:
    return bool(cell["metadata"].get("nbgrader", {}).get("solution"))


def _grading(command: list[str], prepared: Path, folder: Path) -> Callable[[], None]:
    """One grading of a fresh copy of the course; the copying is a small part of it."""

    def grade() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(prepared, folder)
        if command[: len(COURSE)] == COURSE:
            (folder / "nbgrader_config.py").unlink()  # ours puts its own there
        _run(command, folder)

    return grade


def _run(command: list[str], folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # nbgrader calls alembic
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise CourseError(f"{' '.join(command[1:4])} ended with status {done.returncode}:\n{done.stderr[-2000:]}")


def _points(folder: Path, submissions: int) -> float:
    """The points of the class in a gradebook."""
    import sqlite3

    with sqlite3.connect(folder / "gradebook.db") as book:
        students = book.execute("SELECT COUNT(*) FROM submitted_assignment").fetchone()[0]
        points = book.execute("SELECT SUM(auto_score) FROM grade").fetchone()[0] or 0.0
    book.close()
    if students != submissions:
        raise CourseError(f"Of {submissions} submissions, {students} were graded in {folder.name}.")
    return float(points)
