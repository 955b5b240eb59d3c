"""Somebody writes an assignment: the template is sound, and what is not sound is named."""

import re

import nbformat
import pytest
from nbgrader.api import Gradebook
from submissions import put

from autograder import course, notebook
from autograder.authoring import verify as trial
from autograder.authoring.new import TEMPLATE, write_template
from autograder.authoring.verify import verify, written
from autograder.judging.judge import Judge
from autograder.student.check import check
from autograder.student.release import release
from autograder.student.submit import prepare
from course_lib.cli import main
from course_lib.errors import CourseError
from course_lib.execution.notebooks.project import find_root

NAME = "my_softmax"


@pytest.fixture
def source(tmp_path):
    """A new assignment's source, which is written back by the test."""
    path = write_template(NAME, tmp_path)
    return path, notebook.read(path)


def cell_of(nb, name):
    return next(cell for cell in nb.cells if notebook.grade_id(cell) == name)


def problems(source):
    path, nb = source
    nbformat.write(nb, path)
    return verify(course.Assignment(NAME, path), say=lambda line: None)


def test_the_template_is_stripped_and_valid():
    nb = notebook.read(TEMPLATE)
    nbformat.validate(nb)
    assert all(not cell.outputs and cell.execution_count is None for cell in nb.cells if cell.cell_type == "code")
    assert [part.manual for part in notebook.parts(nb)] == [False, False, True]


def test_new_refuses_bad_names_and_never_overwrites(source, tmp_path):
    path, _ = source
    assert path == tmp_path / "source" / NAME / f"{NAME}.ipynb"
    assert notebook.read(path).cells[0].source.startswith("# My softmax\n")
    with pytest.raises(CourseError, match=rf"There is an assignment '{NAME}' already"):
        write_template(NAME, tmp_path)
    with pytest.raises(CourseError, match="There is an assignment 'lora' already"):
        write_template("lora", tmp_path)
    for name in ("../x", "My-Name", "", "1st", "class"):
        with pytest.raises(CourseError, match=f"The name '{name}' cannot be an assignment's"):
            write_template(name, tmp_path)


def test_an_assignment_of_ones_own_is_found_like_the_packages(source, tmp_path, monkeypatch):
    assert course.find(NAME, tmp_path).path == source[0]
    with pytest.raises(CourseError, match="There is no assignment 'my_softmax'"):
        course.find(NAME)
    monkeypatch.setenv("COURSE_DIR", str(tmp_path))
    assert course.find(NAME).path == source[0]
    assert {"lora", NAME} <= course.assignments().keys()


@pytest.mark.slow
def test_the_template_passes_its_own_trial(source):
    """Released, unwritten, answered, varied, and graded by nbgrader."""
    assert problems(source) == []


@pytest.mark.slow
def test_a_release_checks_itself_where_its_source_is_not(source, tmp_path):
    """As on a student's machine: the package does not know the assignment."""
    nb = release(course.Assignment(NAME, source[0]))
    unwritten = put(nb, tmp_path / "mine.ipynb")
    unanswered = "NotImplementedError: this part is not written yet, in line 4 of"
    assert [outcome.message.splitlines() for outcome in check(unwritten)] == [
        [f"values (2 of 3 points): {unanswered} softmax", f"far apart (1 of 3 points): {unanswered} softmax"],
        [f"{unanswered} entropy"],
    ]
    answers = written(source[1])
    for cell in nb.cells:
        if notebook.is_solution(cell):
            cell.source = cell_of(answers, notebook.grade_id(cell)).source
    path = put(nb, tmp_path / "mine.ipynb")
    assert [outcome.message for outcome in check(path)] == ["", ""]
    assert prepare(path).name == "mine"


@pytest.mark.slow
def test_it_is_released_into_the_course(source, tmp_path, capsys):
    """`course release`, as its author types it; nbgrader's gradebook then knows it."""
    assert main(["release", NAME, "--course", str(tmp_path)]) == 0
    path = tmp_path / "release" / NAME / f"{NAME}.ipynb"
    assert str(path) in capsys.readouterr().out
    expected = release(course.Assignment(NAME, source[0]))
    assert [cell.source for cell in notebook.read(path).cells] == [cell.source for cell in expected.cells]
    with Gradebook(f"sqlite:///{tmp_path / 'gradebook.db'}") as gradebook:
        assert gradebook.find_assignment(NAME).max_score == 6


def without(pattern, new=""):
    def edit(nb):
        cell = cell_of(nb, "check-entropy")
        assert re.search(pattern, cell.source)
        cell.source = re.sub(pattern, new, cell.source, count=1)

    return edit


def unjudged(nb):
    del nb.metadata["course"]["judged"]
    del nb.metadata["course"]["hours"]


def unmarked(nb):
    cell_of(nb, "entropy").source = "def entropy(probs):\n    return 0.0"


def twice(nb):
    cell_of(nb, "entropy").metadata.nbgrader.grade_id = "softmax"


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (without("# Property: .*"), "'check-entropy' has hidden tests without a comment `# Property: wrong when …`"),
        (without(r"### BEGIN HIDDEN TESTS\n(?s:.*)"), "'check-entropy' has no hidden tests"),
        (without(r"(?s)_got = .*?(?=### BEGIN)"), "'check-entropy' has no visible check"),
        (without("_got ="), "'check-entropy' is not Python: invalid syntax"),
        (without("_got =", "assert 1 + 1 == 2\n_got ="), "has an assertion without a message, `assert 1 + 1 == 2`"),
        (unjudged, "do not say course.judged: true"),
        (unjudged, "have no course.hours"),
        (unmarked, "the answer 'entropy' has no ### BEGIN SOLUTION"),
        (twice, "two cells have the grade id 'softmax'"),
    ],
)
def test_what_the_source_lacks_is_named(source, edit, expected):
    if expected.endswith("invalid syntax"):
        edit = without("_got =", "_got = =")
    edit(source[1])
    assert [problem for problem in problems(source) if expected in problem]


def test_tests_that_find_nothing_and_answers_that_are_wrong_are_named(source, monkeypatch):
    monkeypatch.setattr(trial, "_graded", lambda assignment, source: iter(()))  # what nbgrader does has its own test
    _, nb = source
    easy = cell_of(nb, "check-entropy")
    hidden = easy.source[easy.source.index("### BEGIN") :]
    easy.source = "assert callable(entropy), 'no function'\n" + re.sub(r"(?m)^for (?s:.*)(?=### END)", "", hidden)
    right = cell_of(nb, "softmax")
    right.source = right.source.replace("keepdims=True))", "keepdims=True)) + 1e-3")
    found = problems(source)
    assert "Part 2: entropy: the unwritten answer passes" in found
    wrong = "Part 1: softmax: the answer of the source fails: values (2 of 3 points): softmax of log 1"
    assert [problem for problem in found if problem.startswith(wrong)], found


def test_the_template_gives_partial_credit(source):
    whole = written(source[1])
    answer = cell_of(whole, "softmax")
    assert "scores - scores.max(axis=-1, keepdims=True)" in answer.source
    answer.source = answer.source.replace("scores - scores.max(axis=-1, keepdims=True)", "scores")
    with Judge(whole, sandbox=False) as judge:
        verdict, entropy = judge.verdicts()
    assert (verdict.points, entropy.points) == (2, 2)
    assert "far apart" in verdict.message
    assert verdict.hint.startswith("subtract the largest score")


def laid_out_alike(source):
    """Without white space and trailing commas: a page and a notebook have lines of different lengths."""
    return re.sub(r",(?=[\])}])", "", re.sub(r"\s", "", source))


def test_the_worked_example_of_the_book_is_the_template():
    page = (find_root() / "book" / "write-an-assignment.md").read_text()
    sources = [laid_out_alike(cell.source) for cell in notebook.read(TEMPLATE).cells]
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) >= 4
    for block in blocks:
        assert any(laid_out_alike(block) in source for source in sources), block
