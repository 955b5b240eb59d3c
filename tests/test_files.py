"""Files are whole at every moment, and a user's are not written over."""

import json
import os

import pytest

from course_lib.errors import CourseError
from course_lib.files import apply_umask, refuse_filled, refuse_missing_path, write_json, write_whole


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


@pytest.mark.parametrize(
    ("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
def test_files_get_the_permissions_that_the_umask_allows(tmp_path, mask, file, folder):
    """safetensors makes its files for their owner alone, tempfile its folders."""
    (tmp_path / "model" / "shards").mkdir(parents=True)
    paths = [tmp_path / "model" / "a.safetensors", tmp_path / "model" / "shards" / "b.safetensors"]
    for path in paths:
        path.touch(mode=0o600)
    os.chmod(tmp_path / "model", 0o700)
    before = os.umask(mask)
    try:
        assert apply_umask(tmp_path / "model") == tmp_path / "model"
        assert os.umask(mask) == mask, "the umask itself is as it was"
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in paths] == [file, file]
    assert (tmp_path / "model" / "shards").stat().st_mode & 0o777 == folder
    paths[0].chmod(0o600)
    apply_umask(paths[0])
    assert paths[0].stat().st_mode & 0o777 == 0o666 & ~before


def test_what_is_written_like_a_path_has_to_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    for value in ("notes", "./notes", ".", "org/model", "gpt2", ""):
        refuse_missing_path("--model", value, (".json",))
    for value in ("./nots", "/nowhere", "~/nowhere", "bpe.json"):
        with pytest.raises(CourseError, match=f"--model {value}: there is no such file or folder"):
            refuse_missing_path("--model", value, (".json",))
    with pytest.raises(CourseError, match="Did you mean notes"):
        refuse_missing_path("--model", "./nots")
