"""The committed expected numbers: each belongs to a chapter and a profile, and its bands say something."""

import json
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from course_lib.execution.notebooks.expected import band_of, band_text
from course_lib.execution.notebooks.project import find_chapters
from course_lib.execution.profile import available_profiles

FOLDER = Path(__file__).parents[2] / "notebooks" / "expected"
FILES = sorted(FOLDER.glob("*/*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_file_belongs_to_a_chapter_and_its_bands_to_values(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["chapter"] == path.stem
    assert path.stem in {chapter.id for chapter in find_chapters([])}
    assert content["profile"] == path.parent.name
    assert path.parent.name in available_profiles()
    compared = [name for name in content["values"] if band_of(content, name) is not None]
    assert len(compared) > len(content["values"]) / 4, "a file that compares next to nothing finds no drift"
    for name in compared:
        assert band_text(content, name)
    for pattern, band in content["tolerances"].items():
        assert band is None or set(band) <= {"relative", "absolute", "at_most"}
        assert any(name == pattern or fnmatchcase(name, pattern) for name in content["values"]), (
            f"{pattern} fits nothing"
        )


def test_most_chapters_have_expected_numbers():
    for profile in ("smoke", "cpu"):
        assert len(list((FOLDER / profile).glob("*.json"))) >= 8
