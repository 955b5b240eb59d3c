"""The instructor's grading: nbgrader's autograde over a folder of submissions, and a table of the points.

Left out, for the work on hostile submissions: a sandbox. Grade only what you would run.
"""

import csv
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from autograder import notebook
from autograder.course import Assignment
from autograder.release import nbgrader
from course_lib.errors import CourseError


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
    assignment: Assignment, submissions: dict[str, Path], state: Path, *, force: bool = False, say=print
) -> list[Grade]:
    """Grade each submission into the gradebook in `state`; writes autograded/, feedback/ and grades.csv there.

    Each submission is rebuilt first (`notebook.rebuild`) in a temporary folder: the student's file is only read.
    A submission that cannot be graded has its problem written down and stops nobody else. One that did not change
    since it was graded keeps its grade, unless `force`.
    """
    state.mkdir(parents=True, exist_ok=True)
    if not (state / "source" / assignment.name).exists():  # a course folder of the instructor's own
        shutil.copytree(assignment.path.parent, state / "source" / assignment.name)
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
        _autograde(assignment, whole, staged, state, force, say)
    grades = [_grade_of(state, assignment, name, problems[name]) for name in submissions]
    write_csv(state / f"grades-{assignment.name}.csv", assignment, grades)
    return grades


def _autograde(assignment: Assignment, students: list[str], staged: Path, state: Path, force: bool, say) -> None:
    """nbgrader's autograde and generate_feedback, each one process for all students."""
    if not students:
        return
    started = iter(range(1, len(students) + 1))

    def progress(line: str) -> None:
        if f"Converting notebook {staged}" in line:
            student = Path(line.split(str(staged), 1)[1]).parts[1]
            say(f"[{next(started, len(students))}/{len(students)}] {student}")

    where = f"--CourseDirectory.submitted_directory={staged}"
    again = ["--force"] if force else []
    nbgrader(state, "autograde", assignment.name, where, "--create", *again, say=progress)
    say("writing feedback")
    nbgrader(state, "generate_feedback", assignment.name, "--force")


def _grade_of(state: Path, assignment: Assignment, student: str, problem: str) -> Grade:
    graded = state / "autograded" / student / assignment.name / assignment.path.name
    if not problem and not graded.is_file():
        problem = "nbgrader could not grade it: run `nbgrader autograde` in the course's folder to see why"
    return Grade(student, problem=problem) if problem else Grade(student, _points(state, assignment, student))


def _stage(template, assignment: Assignment, student: str, path: Path, staged: Path) -> str:
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
    """Grades for a spreadsheet or an LMS, quoted as RFC 4180 says, whole at every moment."""
    parts = notebook.parts(assignment.read())
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["student", "assignment", *(part.id for part in parts), "total", "max", "problem"])
        for g in grades:
            points = [g.points.get(part.id, 0) for part in parts]
            writer.writerow([g.student, assignment.name, *points, g.total, sum(p.points for p in parts), g.problem])
    os.replace(temporary, path)
