"""One bad cell costs no more than it must; and the kernel is ours, whatever is registered elsewhere."""

import json
import subprocess

import nbformat
import pytest
from nbclient import NotebookClient

from autograder.notebook import ENDED, NOT_REACHED, TOO_LONG
from autograder.running import CellRunner, not_reached

LIMIT = 6  # seconds; all that is to finish takes milliseconds


class Client(CellRunner, NotebookClient):
    """As `check` and nbgrader have it."""


def cell(source, **nbgrader):
    made = nbformat.v4.new_code_cell(source)
    if nbgrader:
        made.metadata["nbgrader"] = nbgrader
    return made


@pytest.fixture(autouse=True)
def another_python(tmp_path, monkeypatch):
    """A `python3` kernel that cannot start, found before ours."""
    folder = tmp_path / "kernels/python3"
    folder.mkdir(parents=True)
    argv = ["/bin/false", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))


def run(*cells, iopub_timeout=4):
    """The errors' names by cell, and what the client told."""
    nb = nbformat.v4.new_notebook(cells=list(cells), metadata={"course": {"seconds_per_cell": LIMIT}})
    on_timeout = {"ename": TOO_LONG, "evalue": "", "traceback": []}
    client = Client(
        nb,
        timeout=120,
        allow_errors=True,
        interrupt_on_timeout=True,
        error_on_timeout=on_timeout,
        raise_on_iopub_timeout=True,
        iopub_timeout=iopub_timeout,
    )
    told = []
    client.tell = lambda event, cell, text: told.append((event, text))
    client.execute(stderr=subprocess.DEVNULL)
    return [[o.ename for o in cell.outputs if o.output_type == "error"] for cell in nb.cells], told, client


@pytest.mark.slow
def test_errors_loops_and_exit():
    """A loop is interrupted; an answer that swallows the interrupt has failed all the same; exit() ends the run."""
    errors, told, client = run(
        cell("import time, os"),
        cell("1 / 0"),
        cell("while True:\n    time.sleep(0.1)", grade_id="loop", solution=True),
        cell("try:\n    while True:\n        time.sleep(0.1)\nexcept BaseException:\n    pass"),
        cell("", grade_id="empty", solution=True),
        cell("def leave():\n    exit()"),
        cell("leave()", grade_id="leaving", grade=True),
        cell("1", grade_id="behind", grade=True),
    )
    assert errors[:2] == [[], ["ZeroDivisionError"]]
    assert errors[2] == ["KeyboardInterrupt", TOO_LONG]
    assert errors[3] == [TOO_LONG]
    assert errors[4:] == [[], [], [], [NOT_REACHED]]
    assert client.stopped == "the cell 'leaving' ended its kernel with exit()"
    assert ("slow", f"the cell 'loop' is still running (it may take {LIMIT} s)") in told
    assert [event for event, _ in told].count("end") == 8
    assert ("stopped", client.stopped) in told
    assert [not_reached(each) for each in client.nb.cells[-2:]] == [False, True]


@pytest.mark.slow
def test_a_crash_and_the_cell_is_named():
    errors, _, client = run(
        cell("import os"),
        cell("os._exit(1)", grade_id="crash", solution=True),
        cell("1", grade_id="check-crash", grade=True),
    )
    assert errors == [[], [ENDED], [NOT_REACHED]]
    assert client.stopped == "the cell 'crash' ended its kernel"
    assert not_reached(client.nb.cells[-1])


@pytest.mark.slow
def test_a_cell_that_cannot_be_interrupted_is_killed():
    errors, _, client = run(
        cell("import signal, time"),
        cell("signal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(1000)"),  # in one: each cell gets a new handler
        cell("1"),
        iopub_timeout=1,
    )
    assert errors == [[], [TOO_LONG], [NOT_REACHED]]
    begins = "your own cell that begins 'signal.signal(signal.SIGINT, signal.SIG_IGN)'"
    assert client.stopped == f"{begins} took over {LIMIT} seconds and could not be interrupted"
    assert not not_reached(client.nb.cells[1]), "it had its time"


@pytest.mark.parametrize(
    ("made", "seconds"),
    [
        (cell("f()", grade_id="a", grade=True), LIMIT),
        (cell("def f(): ...", grade_id="a", solution=True), LIMIT),
        (cell("import torch"), LIMIT),
        (cell("f()", grade_id="a", locked=True), LIMIT),
        (cell("import torch\nx = 1", grade_id="setup", locked=True), 120),
    ],
)
def test_only_given_imports_may_take_long(made, seconds):
    nb = nbformat.v4.new_notebook(cells=[made], metadata={"course": {"seconds_per_cell": LIMIT}})
    assert Client(nb, timeout=120).limit_of(made) == seconds
    assert Client(nb, timeout=3).limit_of(made) == 3
    assert Client(nb, timeout=None)._get_timeout(made) == (LIMIT if seconds == LIMIT else None)
