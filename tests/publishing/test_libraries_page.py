"""The page on what the libraries really do, and the rows that tests leave for it."""

from types import SimpleNamespace

import library_log
import pytest

from course_lib.publishing.libraries_page import libraries_page
from course_lib.publishing.parity_page import measured_rows

FIELDS = {"package": "torch", "happens": "`x` is y", "expected": "It is z.", "instead": "Ask.", "chapter": "03_lora"}
TEST = "tests/libraries/test_torch.py::test_ties"


def item(nodeid=TEST, **fields):
    mark = SimpleNamespace(args=(), kwargs=fields or FIELDS)
    return SimpleNamespace(nodeid=nodeid, iter_markers=lambda name: [mark])


def report(outcome, when="call"):
    return SimpleNamespace(when=when, passed=outcome == "passed", failed=outcome == "failed", sections=[])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(library_log, "FOLDER", tmp_path / "build" / "libraries")
    return tmp_path


def test_a_test_that_passed_leaves_its_row_and_one_that_failed_takes_it_away(folder):
    (folder / "tests" / "libraries").mkdir(parents=True)
    (folder / "tests" / "libraries" / "test_torch.py").write_text("def test_ties():\n    pass\n")
    library_log.note(item(), report("passed", when="setup"))
    assert measured_rows(folder, "libraries") == []
    library_log.note(item(f"{TEST}[None]"), report("passed"))
    (row,) = measured_rows(folder, "libraries")
    assert FIELDS.items() <= row.items()
    assert row["test"] == TEST

    failed = report("failed")
    library_log.note(item(), failed)
    assert measured_rows(folder, "libraries") == []
    assert library_log.changed(SimpleNamespace(stats={"failed": [failed]})) == [f"torch {row['version']}: `x` is y"]


def test_a_row_whose_test_is_gone_is_left_out(folder):
    library_log.note(item(), report("passed"))
    assert measured_rows(folder, "libraries") == []


def test_a_field_that_is_missing_is_refused_at_collection():
    with pytest.raises(ValueError, match=f"{TEST}.*chapter, expected, happens"):
        library_log.check(item(package="torch"))


def test_the_page_has_a_section_for_each_library_in_the_order_of_the_book():
    rows = [FIELDS | {"test": TEST, "version": "2.13.0", "date": "2026-11-28T10:00:00"}]
    rows += [row | {"package": "PEFT", "version": "0.21.2", "chapter": "04_merging"} for row in rows]
    text = libraries_page(rows[::-1])
    assert "These 2 behaviours" in text
    assert "is of 2026-11-28" in text
    assert text.index("## torch 2.13.0") < text.index("## PEFT 0.21.2")
    assert "### `x` is y\n\n**You would expect:** It is z.\n\n**What to do:** Ask." in text
    assert "[Chapter 04](notebooks/04_merging.ipynb). Test: `test_ties` in `tests/libraries/test_torch.py`." in text
