"""Folders of nbgrader's own kind: recognised, graded as nbgrader grades them, and marked as forgeable."""

import contextlib
import copy
import csv
import html
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import nbgrader
import pytest
from nbgrader.api import Gradebook

from autograder import course
from autograder.judging.results import FORGEABLE, NO_SANDBOX
from autograder.rebuild import answers
from autograder.recognise import assignment_of
from course_lib.cli import main
from course_lib.errors import CourseError

DOCS = Path(nbgrader.__file__).parent / "docs/source/user_guide"  # nbgrader's own course
STUB = "# YOUR CODE HERE\nraise NotImplementedError()"  # nbgrader's, which its students have in their notebooks
CONFIG = f"c = get_config()\nc.ClearSolutions.code_stub = {{'python': {STUB!r}}}\n"


def test_names_that_clash_are_refused(tmp_path):
    def put(place):
        (tmp_path / place).parent.mkdir(parents=True)
        nbformat.write(nbformat.v4.new_notebook(), tmp_path / place)

    put("source/lora/problem1.ipynb")
    assert course.find("lora-problem1", tmp_path).path == tmp_path / "source/lora/problem1.ipynb"
    with pytest.raises(CourseError, match=r"source/lora has no lora\.ipynb.* name one of lora-problem1"):
        course.find("lora", tmp_path)  # not the package's, which would be copied beside it
    put("source/ps1/a-b.ipynb")
    put("source/ps1-a/b.ipynb")
    with pytest.raises(CourseError, match=r"ps1/a-b\.ipynb and .*ps1-a/b\.ipynb are both the assignment ps1-a-b: "):
        course.assignments(tmp_path)


def test_an_assignment_of_tasks_alone_is_recognised(tmp_path):
    about = {"grade_id": "a", "task": True, "grade": False, "solution": False, "locked": True, "points": 3}
    task = nbformat.v4.new_markdown_cell("Explain.", metadata={"nbgrader": about})
    nb = nbformat.v4.new_notebook(cells=[task])
    nbformat.write(nb, tmp_path / "x.ipynb")
    mine = course.Assignment("x", tmp_path / "x.ipynb")
    assert assignment_of(nb, [*course.assignments().values(), mine]) == mine
    answered = copy.deepcopy(nb)
    answered.cells += [nbformat.v4.new_markdown_cell("Because."), nbformat.v4.new_code_cell("1 + 1")]
    assert answers(nb, nb) == {"a": ""}
    assert answers(answered, nb) == {"a": "Because.\n1 + 1"}


def docs_course(folder):
    """nbgrader's documentation course; its header cell, which asks for a name, is not in these sources."""
    shutil.copytree(DOCS / "source/ps1", folder / "source/ps1")
    shutil.copytree(DOCS / "submitted", folder / "submitted")
    (folder / "nbgrader_config.py").write_text(CONFIG)
    for path in folder.rglob("*.ipynb"):  # a kernel named `python` is on no machine of today
        nb = nbformat.read(path, 4)
        nb.metadata.kernelspec.name = "python3"
        nbformat.write(nb, path)
    return folder


def booked(folder):
    """Every grade in a gradebook, by student and cell: from the tests, at most, and whether a person is asked for."""
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        return {
            (submission.student.id, grade.cell.name): (grade.auto_score, grade.max_score, grade.needs_manual_grade)
            for assignment in book.assignments
            for submission in book.assignment_submissions(assignment.name)
            for each in submission.notebooks
            for grade in each.grades
        }


def stock(folder):
    """The course as nbgrader's own commands grade it."""
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    for command in (["generate_assignment", "ps1"], ["autograde", "ps1", "--create"]):
        line = [sys.executable, "-m", "nbgrader", *command]
        done = subprocess.run(line, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
    return booked(folder)


def graded(folder, name, *options):
    """`course grade`'s exit status and what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = main(["grade", name, "--course", str(folder), *options])
    return status, said.getvalue()


@pytest.mark.slow  # nbgrader's commands and ours, for two students with two notebooks each: eight kernels
def test_nbgraders_own_course_grades_the_same_and_is_marked(tmp_path):
    expected = stock(docs_course(tmp_path / "stock"))
    ours = docs_course(tmp_path / "ours")
    for name in ("ps1-problem1", "ps1-problem2"):
        status, said = graded(ours, name)
        assert status == 0, said
        assert "ran in the sandbox" in said
        assert "could forge its score" in said
        assert NO_SANDBOX not in said
        with (ours / f"grades-{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["student"] for row in rows] == ["bitdiddle", "hacker"]
        assert all(FORGEABLE in row["note"] for row in rows)
    assert booked(ours) == expected
    assert len(expected) == 18
    assert expected["hacker", "correct_sum_of_squares"] == (0.5, 0.5, False)
    assert expected["bitdiddle", "correct_squares"] == (0, 1, False)
    assert (ours / "source/ps1-problem1/jupyter.png").is_file()

    assert main(["grades", "report", "ps1-problem1", "--course", str(ours)]) == 0
    assert FORGEABLE in html.unescape((ours / "report-ps1-problem1.html").read_text())

    assert graded(ours, "ps1")[0] == 2
    with pytest.raises(CourseError, match="name one of ps1-problem1, ps1-problem2"):
        course.find("ps1", ours)

    status, said = graded(ours, "ps1-problem1", "--student", "hacker", "--no-sandbox")
    assert (status, NO_SANDBOX in said, "with your rights" in said) == (0, True, True)
    assert booked(ours) == expected
    assert "GRADED WITHOUT A SANDBOX" in (ours / "feedback/hacker/ps1-problem1/ps1-problem1.html").read_text()
