"""Cells that only plot are folded in the book, teach nothing else, and share one look."""

import ast
import json
import re
import statistics
from pathlib import Path

import pytest

from course_lib.plotting import WIDTH

ROOT = Path(__file__).parents[2]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def source(cell):
    return "".join(cell["source"])


def code_cells(path):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def plots(path):
    return [cell for cell in code_cells(path) if "plt.show()" in source(cell)]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_cell_that_only_plots_is_folded(path):
    found = plots(path)
    folded = [cell["id"] for cell in found if "hide-input" in cell["metadata"].get("tags", [])]
    assert folded == [cell["id"] for cell in found]
    assert len(found) >= 2


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_folded_cell_holds_nothing_that_a_reader_has_to_see(path):
    """No result, no record and no import of ours is lost to a reader who leaves the plots folded."""
    for cell in plots(path):
        assert re.findall(r"^\s*(?:print\(|record\(|from course_lib|Table\()", source(cell), re.M) == [], cell["id"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_figure_has_a_caption_and_an_alternative_text(path):
    for cell in code_cells(path):
        described = cell["metadata"].get("mystnb")
        if described is None:
            assert "plt.show()" not in source(cell), cell["id"]
            continue
        caption = described["figure"]["caption"]
        assert caption.endswith((".", "?")), cell["id"]
        assert len(caption) > 25, cell["id"]
        assert caption != described["image"]["alt"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_colours_and_sizes_come_from_one_place(path):
    code = "\n".join(source(cell) for cell in code_cells(path))
    assert "use_style()" in code
    used = set(re.findall(r'"#[0-9a-f]{6}"', code))
    assert used <= {'"#444444"', '"#dfe3e8"', '"#ffb703"'}  # labels on a heat map, and the colours of LabelView
    # One panel is at most as wide as the style's own figure, so that its text is legible on a phone. Panels side by
    # side scroll there.
    for cell in plots(path):
        for width in re.findall(r"figsize=\(([\d.]+)", source(cell)):
            several = re.search(r"subplots\(\s*(?:1, [23]|2, 3|layers, heads)", source(cell))
            assert float(width) <= (8 if several else WIDTH) or cell["id"] in {"graph", "picture"}, cell["id"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_results_are_no_columns_of_print(path):
    """Two padded fields in one printed line are a table, and `Table` shows it on every screen."""
    padded = re.compile(r"\{[^{}\[]*:[<>]?\d+[^{}]*\}[^\n]*\{[^{}\[]*:[<>]?\d+[^{}]*\}")
    for cell in code_cells(path):
        lines = [line for line in source(cell).splitlines() if "print(" in line or line.strip().startswith('f"')]
        assert [line for line in lines if padded.search(line)] == [], cell["id"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_sentence_is_printed_in_pieces(path):
    """Two calls of print for one line are for the width of the page, which is no reader's concern."""
    assert [cell["id"] for cell in code_cells(path) if 'end=" "' in source(cell)] == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_cell_shows_the_records_of_a_run(path):
    """A last line `trainer.train(...)` would print one record for each of hundreds of steps."""
    for cell in code_cells(path):
        code = source(cell).rstrip()
        last = ast.parse(code).body[-1:]
        shown = [line for line in last if isinstance(line, ast.Expr) and isinstance(line.value, ast.Call)]
        names = [line.value.func.attr for line in shown if isinstance(line.value.func, ast.Attribute)]
        assert code.endswith(";") or "train" not in names, cell["id"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_half_of_the_code_cells_have_at_most_twelve_lines(path):
    lengths = [len(source(cell).splitlines()) for cell in code_cells(path)]
    assert statistics.median(lengths) <= 12
