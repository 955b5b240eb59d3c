"""The instructor's grading: nbgrader's autograde over a folder of submissions, and a table of the points.

Left out, for the work on hostile submissions: a sandbox. Grade only what you would run.
"""

import csv
import hashlib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from autograder import notebook
from autograder.course import Assignment
from autograder.student.release import nbgrader
from course_lib.errors import CourseError
from course_lib.files import write_json, write_whole


@dataclass
class Grade:
    """One student's result: points a part, or why there are none."""

    student: str
    points: dict[str, float] = field(default_factory=dict)
    problem: str = ""

    @property
    def total(self) -> float:
        return sum(self.points.values())


def find_submissions(assignment: Assignment, folder: Path) -> dict[str, Path]:
    """Student -> notebook. Understood are nbgrader's own layout (STUDENT/NAME/NAME.ipynb), STUDENT/NAME.ipynb and
    STUDENT.ipynb."""
    name = assignment.path.name
    found = {path.parent.parent.name: path for path in folder.glob(f"*/{assignment.name}/{name}")}
    found |= {path.parent.name: path for path in folder.glob(f"*/{name}")}
    found |= {path.stem: path for path in folder.glob("*.ipynb")}
    if not found:
        raise CourseError(f"{folder} has no submission: expected STUDENT/{assignment.name}/{name} or STUDENT.ipynb.")
    return dict(sorted(found.items()))


def grade(
    assignment: Assignment,
    submissions: dict[str, Path],
    state: Path,
    *,
    force: bool = False,
    say: Callable[[str], object] = print,
) -> list[Grade]:
    """Grade each submission into the gradebook in `state`; writes autograded/, feedback/ and grades-NAME.csv there.

    Each submission is rebuilt first (`notebook.rebuild`) in a temporary folder: the student's file is only read.
    A submission that cannot be graded has its problem written down and stops nobody else. One that did not change
    since it was graded keeps its grade, unless `force`. A run that was killed is taken up where it stopped.
    """
    assignment = placed(assignment, state)
    if not (state / "gradebook.db").is_file():  # a new term: nobody is graded
        _graded_file(assignment, state).unlink(missing_ok=True)
    say(f"preparing {assignment.name}")
    said = nbgrader(state, "generate_assignment", assignment.name, "--create", "--force")
    released = state / "release" / assignment.name / assignment.path.name
    # nbgrader refuses, say, a changed set of parts once there are grades; the old release would then still be there
    if not released.is_file() or "ERROR]" in said:
        raise CourseError(f"nbgrader could not release {assignment.name}:\n{said}")
    template = notebook.read(released)

    with tempfile.TemporaryDirectory(prefix="course-grade-") as folder:
        staged = Path(folder)
        problems = {name: _stage(template, assignment, name, path, staged) for name, path in submissions.items()}
        whole = [name for name, problem in problems.items() if not problem]
        problems |= _autograde(assignment, whole, staged, state, force, say)
    grades = [_grade_of(state, assignment, name, problems[name]) for name in submissions]
    write_csv(state / f"grades-{assignment.name}.csv", assignment, grades)
    return grades


def placed(assignment: Assignment, state: Path) -> Assignment:
    """The assignment as this course has it: its own copy, made at the first grading, so that an update of the package
    changes nothing in the middle of a term."""
    own = state / "source" / assignment.name / assignment.path.name
    if not own.is_file():
        write_whole(own, assignment.path.read_bytes())
    return Assignment(assignment.name, own)


def _autograde(
    assignment: Assignment,
    students: list[str],
    staged: Path,
    state: Path,
    force: bool,
    say: Callable[[str], object],
) -> dict[str, str]:
    """nbgrader's autograde and generate_feedback, each one process for all students. Returns why, where nbgrader could
    not grade one."""
    file = _graded_file(assignment, state)
    graded = json.loads(file.read_text()) if file.is_file() else {}
    now = {s: _digest(assignment, staged / s / assignment.name / assignment.path.name) for s in students}
    waiting = [s for s in students if force or graded.get(s) != now[s] or not _output(assignment, state, s).is_file()]
    graded = {student: digest for student, digest in graded.items() if student not in waiting}
    for student in set(students) - set(waiting):
        shutil.rmtree(staged / student)
    started, problems = [], {}

    def progress(line: str) -> None:
        if f"Converting notebook {staged}" in line:
            started.append(Path(line.split(str(staged), 1)[1]).parts[1])
            say(f"[{len(started)}/{len(waiting)}] {started[-1]}")
        elif started and "Setting destination file permissions" in line:  # the last that nbgrader does to one
            graded[started[-1]] = now[started[-1]]
            write_json(file, graded)
        elif started and re.match(r"\s+[\w.]+Error: ", line):  # the last line of nbgrader's traceback
            problems[started[-1]] = f"nbgrader could not grade it ({line.strip()})"

    if waiting:
        write_json(file, graded)
        # nbgrader itself goes by time stamps, and takes what a killed run left half graded for done
        where = f"--CourseDirectory.submitted_directory={staged}"
        nbgrader(state, "autograde", assignment.name, where, "--create", "--force", say=progress)
    if students:
        say("writing feedback")
        nbgrader(state, "generate_feedback", assignment.name, "--force")
    return problems


def _grade_of(state: Path, assignment: Assignment, student: str, problem: str) -> Grade:
    if not problem and not _output(assignment, state, student).is_file():
        problem = "nbgrader could not grade it, and did not say why"
    return Grade(student, problem=problem) if problem else Grade(student, _points(state, assignment, student))


def _output(assignment: Assignment, state: Path, student: str) -> Path:
    """The graded notebook, there once nbgrader has begun with it."""
    return state / "autograded" / student / assignment.name / assignment.path.name


def _graded_file(assignment: Assignment, state: Path) -> Path:
    """Who is graded, and what of: student -> `_digest`."""
    return state / "autograded" / f"graded-{assignment.name}.json"


def _digest(assignment: Assignment, path: Path) -> str:
    """Another one when a cell of the submission changes (not its random id), or the source with the hidden tests."""
    cells = json.dumps([cell.source for cell in notebook.read(path).cells])
    return hashlib.sha256(assignment.path.read_bytes() + cells.encode()).hexdigest()


def _stage(template: notebook.Notebook, assignment: Assignment, student: str, path: Path, staged: Path) -> str:
    """Lay a rebuilt submission out as nbgrader expects it, with the time it was handed in; returns what is wrong with
    it, if anything is."""
    try:
        whole = notebook.rebuild(template, notebook.read(path))
    except CourseError as error:
        return str(error)
    target = staged / student / assignment.name / assignment.path.name
    notebook.write(whole, target)
    handed_in = path.parent / "timestamp.txt"
    time = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M:%S.%f %Z")
    (target.parent / "timestamp.txt").write_text(handed_in.read_text() if handed_in.is_file() else time)
    return ""


def _points(state: Path, assignment: Assignment, student: str) -> dict[str, float]:
    """What the gradebook holds, a part at a time; a score outside 0 to the part's maximum is not believed."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{state / 'gradebook.db'}") as gradebook:
        submission = gradebook.find_submission_notebook(assignment.path.stem, assignment.name, student)
        scores = {g.cell.name: (g.score or 0.0, g.cell.max_score) for g in submission.grades}
    return {name: score if 0 <= score <= most else 0.0 for name, (score, most) in scores.items()}


def table(assignment: Assignment, grades: list[Grade]) -> str:
    """A row a student: points part by part, total, or the problem."""
    parts = notebook.parts(assignment.read())
    most = sum(part.points for part in parts)
    rows = [["student", *(f"{i}/{p.points:g}" for i, p in enumerate(parts, start=1)), f"total/{most:g}"]]
    for g in grades:
        if g.problem:
            rows.append([g.student, *[""] * len(parts), f"-  {g.problem}"])
        else:
            rows.append([g.student, *(f"{g.points.get(p.id, 0):g}" for p in parts), f"{g.total:g}"])
    widths = [max(len(row[i]) for row in rows) for i in range(len(parts) + 1)]
    return "\n".join("  ".join([*map(str.ljust, row[:-1], widths), row[-1]]).rstrip() for row in rows)


def write_csv(path: Path, assignment: Assignment, grades: list[Grade]) -> None:
    """Grades for a spreadsheet or an LMS, quoted as RFC 4180 says, whole at every moment. Students of an earlier run
    who were not graded now keep their rows."""
    parts = notebook.parts(assignment.read())
    header = ["student", "assignment", *(part.id for part in parts), "total", "max", "problem"]
    rows: dict[str, list] = {row[0]: row for row in _rows(path, header)}
    for g in grades:
        points = [g.points.get(part.id, 0) for part in parts]
        rows[g.student] = [g.student, assignment.name, *points, g.total, sum(p.points for p in parts), g.problem]
    file = io.StringIO()
    csv.writer(file).writerows([header, *(rows[student] for student in sorted(rows))])
    write_whole(path, file.getvalue())


def _rows(path: Path, header: list[str]) -> list[list[str]]:
    """The rows below the header in a file that `write_csv` wrote for the same parts; none where there is none."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        found = list(csv.reader(file))
    return found[1:] if found[:1] == [header] else []
