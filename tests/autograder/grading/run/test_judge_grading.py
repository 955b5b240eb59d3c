"""`course grade` and `course assignment check` of a judged assignment: the judge decides, nbgrader keeps the record."""

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest
from submissions import appending, filled, put, replacing

from autograder import course, notebook
from autograder.grading.collect.submissions import find_submissions
from autograder.grading.gradebook import scores
from autograder.grading.report.table import table
from autograder.grading.run.grade import grade
from autograder.judging.checks import checks
from autograder.judging.judge import Judge
from autograder.judging.results import NO_SANDBOX
from autograder.judging.secret import NAME as SECRET
from autograder.rebuild import rebuild
from autograder.student.check import check, find_notebook
from autograder.student.release import nbgrader, scratch_course
from course_lib.errors import CourseError

NAME = "kv_cache"
STOCK = 'c = get_config()\nc.CourseDirectory.course_id = "stock"\n'
ONE_HEAD = replacing("attend-one", "    group = len(q) // len(keys)", "    group = 2 if len(q) == 4 else 1")
FORGED = "import autograder.checks as c\nfor n in dir(c):\n    if n.startswith('check'): setattr(c, n, print)\n"


def forging(part, source):
    """Wrong answers to two parts, the check functions replaced, and the test cells edited."""
    wrong = {
        "min-p": "def min_p_filter(probs, min_p):\n    return probs",
        "top-p": "def top_p_filter(p, t):\n    return p",
    }
    return FORGED + wrong[part] if part in wrong else source


class Class:
    """A class that is graded once."""

    def __init__(self, folder):
        self.folder, self.state, self.said = folder / "in", folder / "course", []
        put(filled(NAME), self.folder / "ann" / f"{NAME}.ipynb")
        put(filled(NAME, answers=["attend-one", "min-p"]), self.folder / "bob.ipynb")
        put(filled(NAME, edit=appending("top-p", "import os; os._exit(3)")), self.folder / "cy.ipynb")
        put(filled(NAME, edit=ONE_HEAD), self.folder / "di.ipynb")
        forged = filled(NAME, edit=forging)
        for cell in forged.cells:
            if notebook.is_test(cell):
                cell.source, cell.metadata.nbgrader.points = "pass", 100
        put(forged, self.folder / "eve.ipynb")
        self.assignment = course.find(NAME)
        self.grades = {g.student: g for g in self.run()}

    def run(self, *students, **options):
        found = find_submissions(self.assignment, self.folder)
        chosen = {student: found[student] for student in students or found}
        return grade(self.assignment, chosen, self.state, say=self.said.append, **options)

    def feedback(self, student):
        return (self.state / "feedback" / student / NAME / f"{NAME}.html").read_text()


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    return Class(tmp_path_factory.mktemp("judged"))


@pytest.mark.slow
@pytest.mark.xdist_group("judged-grading")
class TestGrade:
    def test_each_gets_what_it_deserves(self, graded):
        assert {s: g.total for s, g in graded.grades.items()} == {"ann": 40, "bob": 5, "cy": 37, "di": 37, "eve": 35}
        assert not any(g.problem for g in graded.grades.values())
        assert [s for s, g in graded.grades.items() if "ended with status 3" in g.note] == ["cy"]

    def test_nbgraders_gradebook_has_it(self, graded):
        for student, found in graded.grades.items():
            assert scores.points_of(graded.state, graded.assignment, student) == found.points

    def test_feedback_tells_the_property_and_not_the_test(self, graded):
        html = graded.feedback("di")
        assert "a hidden test fails: wrong for some numbers of query heads, key-value heads and tokens" in html
        assert "instead of" not in html.split("a hidden test fails")[1][:300]
        assert "GRADED WITHOUT A SANDBOX" not in html

    def test_feedback_has_no_hidden_test(self, graded):
        html = graded.feedback("ann")
        assert "HIDDEN" not in html
        assert "Property" not in html

    def test_the_secret_is_its_owners(self, graded):
        file = graded.state / SECRET
        assert int(file.read_text()) >= 0
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def test_what_did_not_change_keeps_its_grade_and_its_flag(self, graded):
        graded.said.clear()
        again = graded.run("cy")
        assert again[0].points == graded.grades["cy"].points
        assert "ended with status 3" in again[0].note
        assert not [line for line in graded.said if line.startswith("[")]

    def test_without_a_sandbox_every_report_says_so(self, graded):
        found = graded.run("ann", sandbox=False)
        assert found[0].total == 40
        assert NO_SANDBOX in table(graded.assignment, found)
        assert NO_SANDBOX in (graded.state / f"grades-{NAME}.csv").read_text()
        assert "GRADED WITHOUT A SANDBOX" in graded.feedback("ann")

    def test_without_bubblewrap_nothing_is_graded(self, graded, monkeypatch):
        monkeypatch.setattr(shutil, "which", lambda name: None)
        with pytest.raises(CourseError, match="apt-get install bubblewrap"):
            graded.run("ann")


@pytest.mark.slow
@pytest.mark.xdist_group("judged-grading")
def test_stock_nbgrader_gives_honest_answers_the_same(graded, monkeypatch):
    """nbgrader's own configuration: a kernel, and the tests in it."""
    # nbgrader calls alembic, which lies beside our Python
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    with scratch_course(graded.assignment) as folder:
        (folder / "nbgrader_config.py").write_text(STOCK)
        for student, answers in {"ann": None, "bob": ["attend-one", "min-p"]}.items():
            put(filled(NAME, answers), folder / f"submitted/{student}/{NAME}/{NAME}.ipynb")
        nbgrader(folder, "generate_assignment", NAME)
        said = nbgrader(folder, "autograde", NAME)
        for student in ("ann", "bob"):
            points = scores.points_of(folder, graded.assignment, student)
            assert points == graded.grades[student].points, said


@pytest.mark.slow
@pytest.mark.xdist_group("judged-grading")
def test_stock_nbgrader_gives_the_same_points_by_property(monkeypatch):
    """A right answer to a part but for its refusals, in nbgrader's own kernel and before the judge."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assignment, mine = course.find("sft"), filled("sft", edit=replacing("labels", "raise ValueError(", "print("))
    with scratch_course(assignment) as folder:
        (folder / "nbgrader_config.py").write_text(STOCK)
        put(mine, folder / "submitted/ann/sft/sft.ipynb")
        nbgrader(folder, "generate_assignment", "sft")
        said = nbgrader(folder, "autograde", "sft")
        stock = scores.points_of(folder, assignment, "ann")
    with Judge(rebuild(assignment.read(), mine)) as judge:
        ours = {verdict.part.id: verdict.points for verdict in judge.verdicts()}
    assert ours["check-labels"] == 1
    assert {part: stock.get(part) for part in ours} == ours, said


def test_check_says_what_was_expected_and_what_came(tmp_path, monkeypatch):
    def edit(part, source):
        source = ONE_HEAD(part, source)
        source = replacing("min-p", "return kept / kept.sum()", "return kept")(part, source)
        source = replacing("gather-pages", "    return pages", "    return None\n    return pages")(part, source)
        return replacing("sink-positions", "    token =", "    tokn =")(part, source)

    path = put(filled(NAME, edit=edit), tmp_path / f"{NAME}.ipynb")
    before, told = path.read_bytes(), []
    outcomes = check(path, tell=told.append)
    messages = {o.part.id.removeprefix("check-"): o.message for o in outcomes if o.message}
    assert sorted(messages) == ["gather-pages", "min-p", "sink-positions"]
    assert messages["min-p"] == (
        "min_p_filter of [0.125 0.5   0.25  0.125], 0.5 is off by up to 0.167: 0.5 instead of 0.6667 at [1]"
    )
    said = next(o.details for o in outcomes if o.part.id == "check-min-p")
    assert said == ("the call was min_p_filter(array([0.125, 0.5 , 0.25 , 0.125]), 0.5)",)
    assert messages["gather-pages"].startswith("gather_pages returned nothing: end it with `return`")
    assert messages["sink-positions"].startswith("NameError: name 'token' is not defined, in line ")
    assert told == outcomes
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    monkeypatch.chdir(tmp_path)
    assert find_notebook(type(path)(NAME)).resolve() == path


def test_check_gives_the_hint(tmp_path):
    edit = replacing("attend-one", " / np.sqrt(q.shape[-1])", "")
    outcomes = check(put(filled(NAME, edit=edit), tmp_path / "x.ipynb"))
    said = next(o.details for o in outcomes if o.message)
    assert said[-1].startswith("hint: divide the scores by the root of the width of a head")


def test_check_of_an_unwritten_notebook(tmp_path):
    outcomes = check(put(filled(NAME, answers=[]), tmp_path / "x.ipynb"))
    assert len(outcomes) == 16
    assert all("NotImplementedError: this part is not written yet" in o.message for o in outcomes)


@pytest.mark.parametrize("name", sorted(course.assignments()))
def test_every_hidden_test_has_a_property(name):
    for cell in course.find(name).read().cells:
        if notebook.is_test(cell):
            notes = [check.note for check in checks("x", cell.source) if check.hidden]
            assert all(note.startswith("wrong ") for note in notes), notebook.grade_id(cell)
