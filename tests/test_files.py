"""Files are whole at every moment, and a user's are not written over."""

import json

import pytest

from course_lib.errors import CourseError
from course_lib.files import refuse_filled, write_json, write_whole


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "notes.txt"
    assert write_whole(path, "schön\n") == path
    assert path.read_bytes() == "schön\n".encode()
    write_whole(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert json.loads(write_json(path, {"a": [1, None, "é"]}).read_text(encoding="utf-8")) == {"a": [1, None, "é"]}
    assert [file.name for file in path.parent.iterdir()] == ["notes.txt"]


def test_where_the_value_cannot_be_written_the_old_file_stays(tmp_path):
    path = write_json(tmp_path / "run.json", {"steps": 3})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_json(path, {"steps": object()})
    assert path.read_bytes() == before


def test_only_an_absent_or_an_empty_folder_is_taken(tmp_path):
    refuse_filled(tmp_path / "absent")
    refuse_filled(tmp_path)
    (tmp_path / "letter.txt").write_text("dear")
    for taken in (tmp_path, tmp_path / "letter.txt"):
        with pytest.raises(CourseError, match="not empty"):
            refuse_filled(taken)
