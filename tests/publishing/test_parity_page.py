"""The parity table: only what was measured, and only of tests that exist."""

import json

import pytest

from course_lib.errors import CourseError
from course_lib.publishing.parity_page import ensure_rows, measured_rows, parity_page

ROW = {
    "room": "scratch",
    "what": "AdamW {'eps': 1e-06}",
    "against": "torch",
    "measured": 3e-17,
    "tolerance": 1e-10,
    "unit": "absolute",
    "why": "float64",
    "test": "tests/scratch/test_optim.py::test_adamw[a]",
    "date": "2026-11-21T00:00:00+00:00",
}


def test_rows_of_removed_tests_are_left_out(tmp_path):
    (tmp_path / "build" / "parity").mkdir(parents=True)
    (tmp_path / "tests" / "scratch").mkdir(parents=True)
    (tmp_path / "build" / "parity" / "a.json").write_text(json.dumps(ROW))
    assert measured_rows(tmp_path) == []
    (tmp_path / "tests" / "scratch" / "test_optim.py").write_text("def test_adamw(x): ...")
    assert measured_rows(tmp_path) == [ROW]


WRITES = """
import json, pathlib, pytest

@pytest.fixture
def parity(): ...

@pytest.mark.parity
def test_{name}(parity):
    row = {row!r} | {{"test": "tests/test_{name}.py::test_{name}"}}
    pathlib.Path("build/parity/{name}.json").write_text(json.dumps(row))
    with open("ran.txt", "a") as ran:
        ran.write("{name} ")
"""


def test_the_files_that_left_no_rows_are_run_and_no_other(tmp_path):
    """A run of one folder leaves rows, and a book that is built afterwards shows those of all the others too."""
    for folder in ("build/parity", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    parity\n    slow\n")
    for name in ("old", "new", "slow"):
        (tmp_path / f"tests/test_{name}.py").write_text(WRITES.format(name=name, row=ROW))
    slow = tmp_path / "tests/test_slow.py"
    slow.write_text(slow.read_text().replace("@pytest.mark.parity", "@pytest.mark.parity\n@pytest.mark.slow"))
    (tmp_path / "tests/test_other.py").write_text("def test_other():\n    raise SystemExit('not to be run')\n")
    (tmp_path / "build/parity/old.json").write_text(json.dumps(ROW | {"test": "tests/test_old.py::test_old"}))
    tests = ["tests/test_new.py::test_new", "tests/test_old.py::test_old"]
    assert [row["test"] for row in ensure_rows(tmp_path)] == tests
    assert [row["test"] for row in ensure_rows(tmp_path)] == tests
    assert (tmp_path / "ran.txt").read_text() == "new "

    (tmp_path / "tests/test_wrong.py").write_text("import pytest\n\n\ndef test_wrong(parity): ...\n")
    wrong = tmp_path / "tests/test_wrong.py"
    wrong.write_text(wrong.read_text().replace("def", "@pytest.mark.parity\ndef"))  # it has no such fixture
    with pytest.raises(CourseError, match="Tests marked 'parity' failed"):
        ensure_rows(tmp_path)


def test_the_page_prints_measured_and_allowed():
    text = parity_page([ROW, {**ROW, "room": "other", "measured": 0.0, "what": "ids"}])
    assert '<th scope="row">AdamW eps 1e-06</th><td data-label="compared with">torch</td>' in text
    assert '<td data-label="measured">3 · 10<sup>−17</sup></td>' in text
    assert '<td data-label="allowed">1 · 10<sup>−10</sup> absolute</td>' in text
    assert '<td data-label="why this much">float64</td>' in text
    assert '<th scope="row">ids</th><td data-label="compared with">torch</td><td data-label="measured">0</td>' in text
    assert text.index("## NumPy edition") < text.index("## Other")
    assert "The newest comparison is of 2026-11-21" in text


def test_a_failed_comparison_is_not_written_down(tmp_path, monkeypatch):
    import parity_log

    monkeypatch.setattr(parity_log, "FOLDER", tmp_path)
    log = parity_log.ParityLog("tests/x.py::test", "x")
    log.close("same", "numpy", [1.0, 2.0], [1.0, 2.0 + 1e-12], 1e-10, "float64")
    with pytest.raises(AssertionError, match="differs against numpy: 0.5 > 1e-10"):
        log.close("differs", "numpy", [1.0, 1.0], [1.0, 2.0], 1e-10, "float64")
    with pytest.raises(AssertionError):
        log.within("nan", "numpy", float("nan"), 1.0, "", "absolute")
    with pytest.raises(AssertionError, match="against"):
        log.close("shape", "numpy", [1.0], [1.0, 2.0], 1e-10, "float64")
    assert len(list(tmp_path.glob("*.json"))) == 1
