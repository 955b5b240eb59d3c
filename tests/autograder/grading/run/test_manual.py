"""A question that is answered in words: nothing of the answer is lost, and it waits for a person."""

import copy

import nbformat
import pytest
from nbgrader.api import Gradebook
from submissions import WRITTEN, bare, filled, put, released

from autograder import course, notebook
from autograder.commands.assignment import _check
from autograder.grading.collect.submissions import find_submissions
from autograder.grading.report.table import table
from autograder.grading.run.grade import grade
from autograder.rebuild import rebuild

NAME = "sft"
PART = "question"


def answer_in(nb):
    """The text of the answer in a rebuilt notebook."""
    return next(cell.source for cell in nb.cells if notebook.grade_id(cell) == PART)


def with_text_below(nb, text):
    """The notebook with a text cell of the student's own behind the answer."""
    at = next(i for i, cell in enumerate(nb.cells) if notebook.grade_id(cell) == PART)
    nb.cells.insert(at + 1, nbformat.v4.new_markdown_cell(text))
    return nb


class TestRebuild:
    def test_the_answer_is_kept(self):
        assert answer_in(rebuild(released(NAME), filled(NAME))) == WRITTEN

    def test_without_its_metadata(self):
        assert answer_in(rebuild(released(NAME), bare(filled(NAME)))) == WRITTEN

    def test_an_untouched_one_stays_untouched(self):
        untouched = answer_in(released(NAME))
        assert "YOUR ANSWER HERE" in untouched
        for nb in (filled(NAME, answers=[]), bare(filled(NAME, answers=[]))):
            assert answer_in(rebuild(released(NAME), nb)) == untouched

    def test_a_deleted_one_is_back(self):
        nb = filled(NAME)
        nb.cells = [cell for cell in nb.cells if notebook.grade_id(cell) != PART]
        assert answer_in(rebuild(released(NAME), nb)) == answer_in(released(NAME))

    def test_text_of_the_students_own_below_it_belongs_to_it(self):
        whole = rebuild(released(NAME), with_text_below(filled(NAME), "And padding."))
        assert answer_in(whole) == f"{WRITTEN}\nAnd padding."
        assert len(whole.cells) == len(released(NAME).cells)

    def test_its_question_is_not_the_students_to_change(self):
        nb = copy.deepcopy(filled(NAME))
        question = next(cell for cell in nb.cells if cell.source.startswith("## Part 16"))
        question.source = "## Part 16: nothing"
        whole = rebuild(released(NAME), nb)
        assert [c.source for c in whole.cells if c.source.startswith("## Part 16")] != [question.source]
        assert answer_in(whole) == WRITTEN


def test_it_is_a_part_with_points():
    last = notebook.parts(course.find(NAME).read())[-1]
    assert (last.id, last.points, last.manual) == (PART, 3, True)
    assert not any(part.manual for part in notebook.parts(course.find("datasets").read()))


def test_three_assignments_have_one():
    found = course.assignments()
    asked = {name: [part.points for part in notebook.parts(each.read()) if part.manual] for name, each in found.items()}
    assert {name: points for name, points in asked.items() if points} == {"cluster": [3], "dpo": [3], "sft": [3]}


@pytest.mark.slow
def test_check_names_it(tmp_path, capsys):
    path = put(filled(NAME), tmp_path / f"{NAME}.ipynb")
    assert _check(type("Arguments", (), {"notebook": path, "part": None, "watch": False})) == 0
    said = capsys.readouterr().out
    assert "15 of 15 parts pass their visible checks" in said
    assert "Part 16: a model that does not stop (3 points): your instructor reads it." in said


@pytest.mark.slow
def test_it_waits_for_a_person(tmp_path):
    put(filled(NAME), tmp_path / "in" / "written.ipynb")
    put(filled(NAME, answers=[]), tmp_path / "in" / "untouched.ipynb")
    assignment, state = course.find(NAME), tmp_path / "course"

    def graded():
        grades = grade(assignment, find_submissions(assignment, tmp_path / "in"), state, say=lambda line: None)
        return {each.student: each for each in grades}

    first = graded()
    assert (first["written"].total, first["written"].problem) == (37, "")
    assert first["written"].note == "part 16 waits for a person, see formgrader"
    assert (first["untouched"].total, first["untouched"].points[PART], first["untouched"].note) == (0, 0, "")
    row = next(line for line in table(assignment, [first["written"]]).splitlines() if line.startswith("written"))
    assert row.split("note:")[0].split()[-2:] == ["-", "37"]

    with Gradebook(f"sqlite:///{state / 'gradebook.db'}") as gradebook:
        found = gradebook.find_grade(PART, NAME, NAME, "written")
        assert found.needs_manual_grade
        found.manual_score, found.needs_manual_grade = 2.5, False
        gradebook.db.commit()
    second = graded()["written"]
    assert (second.total, second.points[PART], second.note) == (39.5, 2.5, "")
