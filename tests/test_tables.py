"""Tables as text and as HTML: alignment, formats, escapes, and what is absent."""

import numpy as np
import pytest
from bs4 import BeautifulSoup

from course_lib.tables import ABSENT, Table


def results():
    columns = {"model": "", "loss": ".3f", "trained": ",", "file": ".1f MB"}
    return Table(columns, [("base", 2.5, None, 538.06), ("LoRA <8>", np.float32(1.25), np.int64(1_843_200), 7.0)])


def test_text_has_numbers_on_the_right_of_their_columns():
    assert str(results()).splitlines() == [
        "model      loss    trained      file",
        f"base      2.500          {ABSENT}  538.1 MB",
        "LoRA <8>  1.250  1,843,200    7.0 MB",
    ]


def test_html_marks_numbers_names_rows_and_escapes():
    page = BeautifulSoup(results()._repr_html_(), "html.parser")
    assert [cell.text for cell in page.select("thead th.number")] == ["loss", "trained", "file"]
    last = page.select("tbody tr")[1]
    assert last.find("th", scope="row").text == "LoRA <8>"
    assert [cell.text for cell in last.select("td.number")] == ["1.250", "1,843,200", "7.0 MB"]


def test_a_text_stands_as_it_is_in_a_column_of_numbers():
    assert str(Table({"a": "", "peak": ".1f MB"}, [("x", "out of memory")])).splitlines()[1] == "x  out of memory"


def test_a_row_has_to_fit_the_columns():
    with pytest.raises(ValueError, match="A row of 1 cells does not fit the 2 columns"):
        Table({"a": "", "b": ""}).add("x")


def test_a_notebook_shows_html_and_a_terminal_text():
    from IPython.core.formatters import DisplayFormatter

    shown, _ = DisplayFormatter().format(results())
    assert shown["text/plain"] == str(results())
    assert shown["text/html"].startswith('<table class="results">')
