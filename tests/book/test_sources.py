"""What Jupyter Book is given: refused inputs, generated pages."""

import json

import pytest

from course_lib.errors import CourseError
from course_lib.execution.notebooks.project import find_root
from course_lib.publishing.runs_page import runs_page
from course_lib.publishing.sources import (
    TABLE,
    assemble,
    assignment_rows,
    page,
    with_assignment_table,
    write_api_pages,
)


def notebook(*cells):
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def code(outputs=(), **metadata):
    ran = {"cell_type": "code", "id": "loss-figure", "source": "x", "execution_count": 1}
    return ran | {"outputs": list(outputs), "metadata": metadata}


IMAGE = {"output_type": "display_data", "data": {"image/png": "…", "text/plain": ""}, "metadata": {}}


def test_an_error_output_is_refused_by_name():
    error = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
    with pytest.raises(CourseError, match=r"03_lora, cell loss-figure: its output is an error \(ValueError: no\)"):
        page(notebook(code([error])), "03_lora")


def test_an_image_needs_alternative_text():
    with pytest.raises(CourseError, match="cell loss-figure: its image has no alternative text.*mystnb"):
        page(notebook(code([IMAGE])), "03_lora")
    described = code([IMAGE], mystnb={"image": {"alt": "A falling curve."}})
    assert page(notebook(described), "03_lora")["cells"] == [described]


def test_the_injected_cell_does_not_reach_the_reader():
    injected = code(tags=["injected-parameters"])
    assert page(notebook(injected, code()), "x")["cells"] == [code()]


def test_a_chapter_that_was_not_run_is_named(tmp_path):
    with pytest.raises(CourseError, match="00_foundations has not been executed into .*`course run 00`"):
        assemble(find_root(), tmp_path / "runs", tmp_path / "sources")


def test_runs_page_prints_what_was_measured():
    metrics = {
        "chapter": "03_lora",
        "profile": "cpu",
        "duration_s": 85.4,
        "peak_memory_bytes": 1_570_000_000,
        "finished": "2026-11-21T05:09:24+00:00",
        "commit": None,
        "recorded": {"loss_last": 2.49374, "adapter_bytes": 1858776},
        "hardware": {"cpu": "A chip", "cores": 2, "memory_bytes": 2**34, "gpus": []},
        "versions": {"torch": "2.13.0"},
    }
    text = runs_page([metrics])
    assert "| [03 lora](notebooks/03_lora.ipynb) | `cpu` | 85 s | 1.57 GB | 2026-11-21 | `none` |" in text
    assert "| adapter bytes | 1,858,776 |" in text
    assert "| memory | 16 GiB |" in text


def test_runs_page_calls_chapters_as_the_table_of_contents_does():
    metrics = {
        "recorded": {"x": 1},
        "hardware": {"memory_bytes": None},
        "versions": {},
        "chapter": "90_lora_laboratory",
    }
    metrics |= {"profile": "cpu", "duration_s": 1, "peak_memory_bytes": 1, "finished": "", "commit": ""}
    text = runs_page([metrics], titles={"90_lora_laboratory": "A · A laboratory for LoRA"})
    assert "| [A · A laboratory for LoRA](notebooks/90_lora_laboratory.ipynb) |" in text
    assert "### A · A laboratory for LoRA\n" in text


def test_runs_page_is_made_for_a_reader():
    """No dictionary, no sixteen digits, no text of a page's length, nothing that Markdown would take for a mark."""
    recorded = {"losses": {"q, v": {8: 2.345678912345678}, "all": [1.5, 2.5]}, "said": "a *word* | " * 30}
    metrics = {"chapter": "x_y", "profile": "cpu", "duration_s": 600, "peak_memory_bytes": 1, "finished": ""}
    metrics |= {"commit": None, "recorded": recorded, "hardware": {"memory_bytes": None}, "versions": {}}
    text = runs_page([metrics])
    assert "| losses · q, v · 8 | 2.346 |" in text
    assert "| losses · all · 1 | 2.5 |" in text
    assert "| 10 min |" in text
    assert ":::{dropdown} 4 recorded values" in text
    (said,) = (line for line in text.splitlines() if line.startswith("| said"))
    assert said.startswith("| said | a \\*word\\* \\| a")
    assert len(said) < 100


def test_runs_page_prints_the_expected_value_and_its_band():
    metrics = {
        "recorded": {"loss_last": 2.51, "steps": 3, "switch_ms": 4.0, "new": 1},
        "chapter": "x",
        "profile": "cpu",
    }
    metrics |= {"hardware": {"memory_bytes": None}, "versions": {}, "duration_s": 1, "peak_memory_bytes": 1}
    metrics |= {"finished": "", "commit": ""}
    expected = {"values": {"loss_last": 2.5, "steps": 3, "switch_ms": 9.0}, "tolerances": {"switch_ms": None}}
    text = runs_page([metrics], {"x": expected})
    for row in (
        "| loss last | 2.51 | 2.5 | ± 0.0025 |",
        "| steps | 3 | 3 | equal |",
        "| switch ms | 4 |  |  |",
        "| new | 1 |  |  |",
    ):
        assert row in text


def test_api_pages_cover_every_room(tmp_path):
    write_api_pages(tmp_path / "api")
    text = (tmp_path / "api/course_lib.adapters.md").read_text()
    assert ".. automodule:: course_lib.adapters.lora\n   :members:" in text
    rooms = {path.stem for path in (tmp_path / "api").glob("course_lib.*.md")}
    for room in ("scratch", "data", "models", "training", "adapters", "quantization", "parity", "inference"):
        assert f"course_lib.{room}" in rooms
    index = (tmp_path / "api/index.md").read_text()
    assert "- {doc}`course_lib.adapters <course_lib.adapters>`: a few trained parameters on a frozen base\n" in index
    assert index.count("`: ") == len(rooms)


def test_one_setting_moves_every_repository_link(tmp_path, monkeypatch):
    from course_lib.publishing import sources as book_sources

    monkeypatch.setattr(book_sources, "_fetch_assignments", lambda folder: None)
    monkeypatch.setattr(book_sources, "ensure_rows", lambda root, kind="parity": [])
    metrics = {"recorded": {}, "hardware": {"memory_bytes": None}, "versions": {}, "chapter": "x", "profile": "cpu"}
    metrics |= {"duration_s": 1, "peak_memory_bytes": 1, "finished": "", "commit": ""}
    for chapter in (find_root() / "notebooks").glob("*.ipynb"):
        runs = tmp_path / "runs" / chapter.stem
        runs.mkdir(parents=True)
        (runs / "notebook.ipynb").write_text(json.dumps(notebook(code())))
        (runs / "metrics.json").write_text(json.dumps(metrics))
    assemble(find_root(), tmp_path / "runs", tmp_path / "sources", repository="https://example.org/me/mine")
    config = (tmp_path / "sources/_config.yml").read_text()
    assert "  url: https://example.org/me/mine\n" in config
    assert config.count("https://github.com/") == 0
    page_ = (tmp_path / "sources/how-to-use.md").read_text()
    assert "git clone https://example.org/me/mine course" in page_
    assert "REPOSITORY" not in page_


def test_what_libraries_warn_about_does_not_reach_the_reader():
    warning = {"output_type": "stream", "name": "stderr", "text": "/some/folder/lib.py:3: FutureWarning"}
    printed = {"output_type": "stream", "name": "stdout", "text": "2.5"}
    assert page(notebook(code([warning, printed])), "x")["cells"] == [code([printed])]


def test_the_bibliography_can_be_read_and_has_each_key_once():
    """The build reads it, too, but only after all chapters have run."""
    from pybtex.database import parse_file

    parse_file(str(find_root() / "book/references.bib"))


def test_links_into_a_chapter_name_headings_that_exist():
    """The build says so, too, but only after all chapters have run."""
    import re

    from myst_parser.mdit_to_docutils.base import default_slugify

    root = find_root()
    links = {}
    for page_ in sorted((root / "book").glob("**/*.md")):
        for chapter, anchor in re.findall(r"notebooks/(\w+)\.ipynb#([\w-]+)", page_.read_text(encoding="utf-8")):
            links.setdefault(chapter, {})[anchor] = page_.name
    assert len(links) >= 6
    for chapter, anchors in links.items():
        cells = json.loads((root / "notebooks" / f"{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]
        prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        headings = re.findall(r"(?m)^#{1,4} (.+)$", re.sub(r"```.*?```", "", prose, flags=re.S))
        known = {default_slugify(heading) for heading in headings}
        assert {anchor: page_ for anchor, page_ in anchors.items() if anchor not in known} == {}, chapter


def test_landing_page_leads_to_what_newcomers_look_for():
    """One click to the page, a second one to what it describes."""
    landing = (find_root() / "book" / "index.md").read_text(encoding="utf-8")
    for target in ("how-to-use", "assignments/index", "student-guide", "instructor-guide", "cluster", "serving"):
        assert f"]({target}.md)" in landing
    chapters = sorted(path.name for path in (find_root() / "notebooks").glob("*.ipynb"))
    assert [name for name in chapters if f"](notebooks/{name})" not in landing] == []


def test_teaching_notes_give_the_time_that_each_assignment_says():
    notes = (find_root() / "book" / "teaching-notes.md").read_text(encoding="utf-8")
    for row in assignment_rows():
        assert f"{row['hours']:g} hours for the [assignment](assignments/{row['name']}.md)" in notes, row["name"]


class TestTableOfAssignments:
    ROW = {
        "name": "lora",
        "points": 40,
        "parts": 12,
        "manual": 1,
        "hours": 2.5,
        "chapter": "03_lora",
        "summary": "LoRA",
    }

    def test_a_row_has_what_the_source_says(self):
        text = with_assignment_table(f"before\n\n{TABLE}\n\nafter", [self.ROW, self.ROW], find_root() / "book")
        assert "| [LoRA](lora.md) | 03 | LoRA | 12, 1 in words | 40 | 2.5 h |" in text
        assert "| all | | | 24 | 80 | 5 h |" in text
        assert text.startswith("before")
        assert text.endswith("after")

    def test_a_page_without_its_place_is_refused(self):
        with pytest.raises(AssertionError, match="no place for its table"):
            with_assignment_table("nothing", [self.ROW], find_root() / "book")

    def test_an_assignment_without_its_time_is_refused(self):
        with pytest.raises(CourseError, match="the assignment lora does not say its hours: add course.hours"):
            with_assignment_table(TABLE, [self.ROW | {"hours": None}], find_root() / "book")

    def test_every_assignment_is_in_the_books_table(self):
        """The real sources, the real page."""
        index = (find_root() / "book" / "assignments" / "index.md").read_text()
        rows = assignment_rows()
        text = with_assignment_table(index, rows, find_root() / "book")
        pages = {path.stem for path in (find_root() / "book" / "assignments").glob("*.md")} - {"index"}
        assert {row["name"] for row in rows} == pages
        for row in rows:
            assert row["hours"] > 0
            assert f"]({row['name']}.md) | {row['chapter'][:2]} |" in text
        assert TABLE not in text
