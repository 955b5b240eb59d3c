"""Names that are nearly right."""

from course_lib.suggestions import did_you_mean, similar_paths


def test_close_names_are_asked_for_and_others_are_not():
    assert did_you_mean("tinystorys", ["tinystories", "wikitext2"]) == " Did you mean tinystories?"
    assert did_you_mean("TinyStories", ["tinystories"]) == " Did you mean tinystories?"
    assert did_you_mean("gpt", ["tinystories"]) == ""


def test_the_beginning_of_a_name_is_enough():
    assert did_you_mean("SmolLM2", ["gemma", "smollm2-135m-instruct"]) == " Did you mean smollm2-135m-instruct?"
    assert did_you_mean("smo", ["smollm2-135m-instruct"]) == ""  # too short to tell


def test_neighbours_of_a_path(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("")
    (tmp_path / "data" / ".notes.txt").write_text("")
    right = tmp_path / "data" / "notes.txt"
    assert similar_paths(tmp_path / "data" / "nots.txt") == f" Did you mean {right}?"
    assert similar_paths(tmp_path / "dta" / "notes.txt") == f" Did you mean {right}?"
    assert similar_paths(tmp_path / "dta" / "other.txt") == ""
    assert similar_paths(tmp_path / "absent" / "absent" / "notes.txt") == ""
    assert similar_paths(tmp_path / "data" / "wikitext", ["wikitext2"]) == " Did you mean wikitext2?"
