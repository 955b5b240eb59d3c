import pytest

from course_lib.evaluation import Comparison


def test_table_in_three_forms_escapes_what_a_model_says():
    table = Comparison(["2 < 3?"], {"before": ["<script>alert(1)</script>"], "after": ["yes | no\nSo logged."]})
    html = table._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "So logged." in html
    assert html.count("<td>") == 1  # the prompt
    assert '<td data-label="after">yes | no<br>So logged.</td>' in html  # a phone shows the label in the cell
    markdown = table.to_markdown().splitlines()
    assert markdown[0] == "| prompt | before | after |"
    assert markdown[2].endswith("| yes \\| no So logged. |")
    assert str(table).startswith("> 2 < 3?\n  [before] <script>")


def test_a_missing_completion_is_refused():
    with pytest.raises(ValueError, match="'after' has 1 completions for 2 prompts"):
        Comparison(["a", "b"], {"after": ["x"]})
