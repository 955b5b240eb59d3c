"""Figures and equations are numbered within their chapter; docstrings keep their formulas and link their papers."""

from types import SimpleNamespace

from course_lib.publishing.extension import number_by_chapter, readable_docstring


def test_chapters_count_for_themselves_and_other_pages_from_one():
    numbers = {
        "index": {"figure": {"id1": (1,)}},
        "notebooks/00_foundations": {"displaymath": {"equation-a": (1,), "equation-b": (2,)}, "figure": {"id1": (2,)}},
        "notebooks/03_lora": {"displaymath": {"equation-c": (3,)}, "figure": {"id1": (3,), "id2": (4,)}},
        "notebooks/91_butterflies": {"figure": {"id1": (5,)}},
        "notebooks/90_lora_laboratory": {"displaymath": {"equation-e": (5,)}},
        "serving": {"displaymath": {"equation-d": (4,)}},
    }
    number_by_chapter(SimpleNamespace(toc_fignumbers=numbers))
    assert numbers["index"]["figure"] == {"id1": (1,)}
    assert numbers["notebooks/00_foundations"]["displaymath"] == {"equation-a": (0, 1), "equation-b": (0, 2)}
    assert numbers["notebooks/03_lora"]["displaymath"] == {"equation-c": (3, 1)}
    assert numbers["notebooks/03_lora"]["figure"] == {"id1": (3, 1), "id2": (3, 2)}
    assert numbers["notebooks/91_butterflies"]["figure"] == {"id1": ("B", 1)}
    assert numbers["notebooks/90_lora_laboratory"]["displaymath"] == {"equation-e": ("A", 1)}
    assert numbers["serving"]["displaymath"] == {"equation-d": (1,)}


def processed(text):
    lines = text.splitlines()
    readable_docstring(None, "function", "f", None, None, lines)
    return "\n".join(lines)


def test_a_formula_keeps_its_lines():
    text = "Two parts (Hu 2021, arXiv:2106.09685):\n\n    W' = W + s B A\n    s = alpha / r\n\nMore.\n"
    link = "`arXiv:2106.09685 <https://arxiv.org/abs/2106.09685>`__"
    formula = "::\n\n    W' = W + s B A\n    s = alpha / r\n\nMore."
    assert processed(text) == f"Two parts (Hu 2021, {link}):\n\n{formula}"


def test_sections_examples_and_marked_blocks_stay_as_they_are():
    text = "One.\n\n::\n\n    a\n    b\n\nArgs:\n    x: one.\n        Two.\n\nExample:\n    >>> f()\n    1"
    assert processed(text) == text
