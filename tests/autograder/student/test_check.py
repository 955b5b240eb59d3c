"""A student checks: the visible tests of the release, part by part, on the student's own file, which is only read."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from submissions import appending, filled, put, replacing

from autograder import course, notebook
from autograder.student.check import check, find_notebook
from course_lib.errors import CourseError

ENDLESS = "    while True:\n        import time\n        time.sleep(0.1)\n"


def edits(*several):
    """All these edits, one after the other."""

    def edit(part, source):
        for each in several:
            source = each(part, source)
        return source

    return edit


def hidden_only(part, source):
    """Right for the visible checks' inputs, wrong for a hidden test's."""
    return source.replace("return rows", "return rows if len(lengths) < 30 else []") if part == "first-fit" else source


@pytest.mark.slow
@pytest.mark.xdist_group("check")
def test_right_answers_pass_as_they_come(tmp_path):
    """Renamed, without its tests, and wrong where only hidden tests look."""
    nb = filled(edit=hidden_only)
    nb.cells = [cell for cell in nb.cells if not notebook.is_test(cell)]
    path = put(nb, tmp_path / "my work.ipynb")
    before, told = path.read_bytes(), []
    outcomes = check(path, tell=told.append)
    assert [outcome.message for outcome in outcomes] == [""] * 9
    assert [outcome.part.title for outcome in outcomes][:2] == ["Part 1: the template", "Part 2: and back"]
    assert told == outcomes
    assert path.read_bytes() == before, "check must never write into the student's file"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.fixture
def plain(tmp_path, monkeypatch):
    """The instructor's own copy of the assignment in nbgrader's plain form, whose tests run in the student's kernel."""
    filled()  # which is remembered, and must not be the copy
    source = course.find("datasets").read()
    del source.metadata["course"]["judged"]
    put(source, tmp_path / "own/source/datasets/datasets.ipynb")
    monkeypatch.setenv("COURSE_DIR", str(tmp_path / "own"))


def messages_of_mistakes(path, said):
    """What is said of seven mistakes of different kinds, by part; a cell may take 5 seconds."""
    edit = edits(
        replacing("format", '"\\n".join(sections)', '"\\n".join(sections) + "\\n"'),
        replacing("parse", "def parse(self, formatted):", "def parse(self, formatted)"),
        replacing("example", "        return {", "        result = {"),
        replacing("cut", "raise ValueError(", "raise IndexError("),
        replacing("collate", "        return {", "        np.ones((2, 3)) + np.ones((3, 2))\n        return {"),
        replacing("packed-row", "    position_ids =", ENDLESS + "    position_ids ="),
        replacing("grouped", "    order =", "    lengths.sort()\n    order ="),
    )
    nb = filled(edit=edit, answers={"format", "parse", "example", "cut", "collate", "packed-row", "grouped"})
    end = next(i for i, cell in enumerate(nb.cells) if notebook.grade_id(cell) == "check-grouped")
    nb.cells.insert(end + 1, nbformat.v4.new_code_cell("exit()"))
    outcomes = check(put(nb, path), 5, say=said.append)
    return {outcome.part.id.removeprefix("check-"): outcome.message for outcome in outcomes}


def by_property(message):
    """The lines of a message, each of a property with its points, by the property."""
    return dict(line.split(" points): ", 1) for line in message.splitlines())


@pytest.mark.slow
@pytest.mark.xdist_group("check")
def test_messages_teach(tmp_path):
    """Each says, property by property, what was wrong, where, and what to do."""
    said = []
    messages = messages_of_mistakes(tmp_path / "x.ipynb", said)
    assert messages["parse"] == "the cell with your answer stops: SyntaxError: expected ':', in line 1"
    told = {part: by_property(message) for part, message in messages.items() if part != "parse"}
    assert list(told["format"]) == ["sections (2 of 4", "markers (2 of 4"]
    assert told["format"]["sections (2 of 4"].startswith(
        "the formatted record has 76 characters, expected 75; it differs from character"
    )
    assert told["format"]["markers (2 of 4"].startswith("a record whose texts hold marker lines (one backslash more")
    nothing = "your answer returned nothing: end it with `return` (print only shows a value)"
    assert told["example"] == {"ids (2 of 4": nothing, "labels (2 of 4": nothing}
    assert list(told["cut"]) == ["refusal (1 of 3"]
    assert "must raise a ValueError, and your code raised IndexError: max_length 6" in told["cut"]["refusal (1 of 3"]
    assert list(told["collate"]) == ["shape (1 of 4", "ids (1 of 4", "labels (2 of 4"]
    for line in told["collate"].values():
        assert line.startswith("ValueError: operands could not be broadcast together with shapes (2,3) (3,2)")
        assert line.endswith(", in line 16 of collate")
    unwritten = "NotImplementedError: this part is not written yet, in line 4 of first-fit"
    assert told["first-fit"] == {"rows (2 of 3": unwritten, "refusal (1 of 3": unwritten}
    endless = "it took over 5 seconds and was stopped: is there an endless loop?"
    assert told["packed-row"] == {"positions (1 of 3": endless, "mask (2 of 3": endless}
    assert list(told["grouped"]) == ["batches (1 of 3", "grouping (1 of 3", "order (1 of 3"]
    for line in told["grouped"].values():
        assert line.startswith("length_grouped_batches changed lengths, which it was given")
    assert any(re.fullmatch(r"Part 7: .* is still being checked \(a cell may take 5 s\)", line) for line in said)


@pytest.mark.slow
@pytest.mark.xdist_group("check")
def test_messages_of_a_kernel_teach(tmp_path, plain):
    """Each says what was wrong, where, and what to do; the part that ends the kernel is named."""
    said = []
    messages = messages_of_mistakes(tmp_path / "x.ipynb", said)
    assert messages["format"].startswith(
        "the formatted record has 76 characters, expected 75; it differs from character"
    )
    assert messages["parse"] == "the cell with your answer stops: SyntaxError: expected ':' (line 1 of the cell)"
    assert messages["example"] == "example_with returned nothing: end it with `return` (print only shows a value)"
    assert messages["cut"].startswith("refusal (1 of 3 points): ")  # the others it has: nbgrader gives 2 points
    assert "must raise a ValueError, and your code raised IndexError: max_length 6" in messages["cut"]
    assert messages["collate"].startswith(
        "ValueError: operands could not be broadcast together with shapes (2,3) (3,2)"
    )
    assert messages["collate"].endswith(" of your cell 'collate': `np.ones((2, 3)) + np.ones((3, 2))`")
    assert messages["first-fit"].startswith("NotImplementedError: this part is not written yet, in line")
    assert messages["packed-row"].startswith("it took over 5 seconds and was stopped, in line ")
    assert messages["packed-row"].endswith("`time.sleep(0.1)`: is there an endless loop?")
    assert messages["grouped"].startswith("length_grouped_batches changed lengths, which it was given")
    assert "the cell 'check-packed-row' is still running (it may take 5 s)" in said


def messages_of_an_end(path):
    """What is said of three answers, of which the second ends the process it runs in."""
    nb = filled(edit=appending("example", "import os; os._exit(1)"), answers={"format", "example", "cut"})
    return [outcome.message for outcome in check(put(nb, path))]


@pytest.mark.slow
@pytest.mark.xdist_group("check")
def test_an_answer_that_ends_its_process_costs_only_its_own_part(tmp_path):
    messages = messages_of_an_end(tmp_path / "x.ipynb")
    assert len(messages) == 9
    assert messages[0] == ""
    assert messages[2].startswith("the cell with your answer stops: its process ended with status 1 (a crash in ")
    assert messages[3] == "", "the part behind it has a process of its own"
    for message in [messages[1], *messages[4:]]:
        lines = by_property(message).values()
        assert lines
        assert all(line.startswith("NotImplementedError: this part is not written yet") for line in lines)


@pytest.mark.slow
@pytest.mark.xdist_group("check")
def test_what_was_checked_before_the_kernel_ended_stays(tmp_path, plain):
    messages = messages_of_an_end(tmp_path / "x.ipynb")
    assert messages[0] == ""
    assert messages[1].startswith("NotImplementedError")
    assert messages[2].startswith(
        "the cell with your answer stops: the cell 'example' ended its kernel (a call of os._exit"
    )
    assert messages[3:] == ["not run: the cell 'example' ended its kernel"] * 6


def test_something_else_is_refused(tmp_path):
    path = put(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), tmp_path / "other.ipynb")
    with pytest.raises(CourseError, match="not one of the course's assignments"):
        check(path)
    with pytest.raises(CourseError, match="There is no notebook"):
        check(tmp_path / "absent.ipynb")
    with pytest.raises(CourseError, match=r"absent.ipynb does not exist\. `course assignment list` names them"):
        find_notebook(tmp_path / "absent.ipynb")
    with pytest.raises(CourseError, match=r"othr.ipynb does not exist\. Did you mean .*other.ipynb\?"):
        find_notebook(tmp_path / "othr.ipynb")
    path.write_text("")
    with pytest.raises(CourseError, match=r"other.ipynb is empty\.$"):
        check(path)


def test_the_only_notebook_here_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CourseError, match="Say which notebook you mean: this folder has none"):
        find_notebook(None)
    path = put(nbformat.v4.new_notebook(), tmp_path / "a.ipynb")
    assert find_notebook(None) == path
    put(nbformat.v4.new_notebook(), tmp_path / "b.ipynb")
    with pytest.raises(CourseError, match=r"this folder has a\.ipynb, b\.ipynb"):
        find_notebook(None)
    assert find_notebook(path) == path


def test_the_notebook_in_a_fetched_folder_is_found(tmp_path, monkeypatch):
    """`nbgrader fetch_assignment lora` makes the folder lora, and `check lora` is meant for the notebook in it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CourseError, match=r"lora does not exist\. Get it with `course assignment get lora`"):
        find_notebook(Path("lora"))
    fetched = put(nbformat.v4.new_notebook(), Path("lora/lora.ipynb"))
    put(nbformat.v4.new_notebook(), Path("lora/notes.ipynb"))
    assert find_notebook(Path("lora")) == fetched
    fetched.rename("lora/answers.ipynb")
    with pytest.raises(CourseError, match=r"you mean: the folder lora has answers\.ipynb, notes\.ipynb"):
        find_notebook(Path("lora"))
    beside = put(nbformat.v4.new_notebook(), Path("lora.ipynb"))
    assert find_notebook(Path("lora")) == beside


def test_nothing_is_imported_that_only_a_kernel_needs():
    """It would take longer than all that the student's check imports besides."""
    code = (
        "import sys, autograder.student.check, nbformat\n"
        "kernels = {'nbclient', 'jupyter_client', 'zmq', 'asyncio', 'rfc3987_syntax.parser', 'isoduration'}\n"
        "print(sorted(name for name in kernels if sys.modules.get(name)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
