"""A number in a sentence of a chapter says where it comes from; `course book` holds measured ones against the run."""

import json
import re
from pathlib import Path

import pytest

from course_lib.errors import CourseError
from course_lib.publishing.numbers import check_numbers, unexplained_numbers

ROOT = Path(__file__).parents[2]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_number_in_a_sentence_is_left_unexplained(path):
    assert unexplained_numbers(json.loads(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_what_a_sentence_refers_to_is_recorded_by_the_chapter(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    for cell in notebook["cells"]:
        for origin in cell["metadata"].get("course", {}).get("numbers", {}).values():
            if isinstance(origin, dict):
                name = origin["recorded"].split(".")[0]
                assert re.search(rf"record\([^)]*\b{name}\s*=", code), f"{path.stem} records no {name}"


def chapter(text, **numbers):
    cell = {"cell_type": "markdown", "id": "a", "metadata": {"course": {"numbers": numbers}}, "source": [text]}
    return {"cells": [cell]}


def run(profile="cpu", **recorded):
    return {"profile": profile, "recorded": recorded}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The loss is 3.05 at last.", ["a: 3.05"]),
        ("Half of 2.5 MB, and 1.07.", ["a: 2.5", "a: 1.07"]),
        ("`0.5`, $0.5$, version 2.13.0, [x](0.5)\n\n| 0.5 |", []),
    ],
)
def test_decimal_numbers_are_found_in_sentences_alone(text, found):
    assert unexplained_numbers(chapter(text)) == found


def test_an_entry_whose_number_is_gone_is_named():
    assert unexplained_numbers(chapter("Nothing.", **{"3.05": "x"})) == ["a: 3.05 is not in the text"]


def test_a_value_outside_its_band_fails_the_build():
    claim = chapter("It is 3.05.", **{"3.05": {"recorded": "race.lora", "band": [3.0, 3.1]}})
    check_numbers(claim, run(race={"lora": 3.08}), "91")
    check_numbers(claim, run("smoke", race={"lora": 9.9}), "91")  # its numbers mean nothing
    with pytest.raises(CourseError, match=r"91, cell a: the text says 3.05, and the run measured race.lora = 3.2"):
        check_numbers(claim, run(race={"lora": 3.2}), "91")
    with pytest.raises(CourseError, match="no such number"):
        check_numbers(claim, run(loss=3.05), "91")
