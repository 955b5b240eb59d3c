"""Links from the first use of a term in a chapter to the glossary."""

import json
from pathlib import Path

import pytest

from course_lib.publishing.glossary import link_terms, terms_of

ROOT = Path(__file__).parents[2]
TERMS = ["cache", "KV cache", "LoRA", "rank"]


def linked(*texts):
    cells = [{"cell_type": "markdown", "source": [text]} for text in texts]
    return [cell["source"] for cell in link_terms({"cells": cells}, TERMS)["cells"]]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("A rank, a rank.", "A {term}`rank <rank>`, a rank."),
        ("Ranks count.", "{term}`Ranks <rank>` count."),
        ("A KV cache, then a cache.", "A {term}`KV cache <KV cache>`, then a {term}`cache <cache>`."),
        ("QLoRA, low-rank, ranking, lora", None),
        ("# A rank\n\n`rank` $rank$ [rank](x) {cite}`rank`\n\n| rank |\n\n```\nrank\n```", None),
        ("# A rank\n\nThe rank.", "# A rank\n\nThe {term}`rank <rank>`."),
    ],
)
def test_the_first_use_in_a_sentence_is_linked(text, shown):
    assert linked(text) == [shown or text]


def test_a_term_is_linked_once_in_a_chapter_and_the_notebook_stays():
    assert linked("The rank.", "The rank.") == ["The {term}`rank <rank>`.", "The rank."]
    notebook = {"cells": [{"cell_type": "markdown", "source": ["The rank."]}]}
    link_terms(notebook, TERMS)
    assert notebook["cells"][0]["source"] == ["The rank."]


def test_every_term_of_the_glossary_is_used_in_a_chapter():
    terms = terms_of((ROOT / "book" / "glossary.md").read_text(encoding="utf-8"))
    assert len(terms) > 50
    used = "".join(
        "".join(cell["source"])
        for path in (ROOT / "notebooks").glob("*.ipynb")
        for cell in link_terms(json.loads(path.read_text(encoding="utf-8")), terms)["cells"]
        if cell["cell_type"] == "markdown"
    )
    assert [term for term in terms if f"<{term}>`" not in used] == []
