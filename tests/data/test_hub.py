"""Data sets by their hub name: the text that is in the files, online, offline, and by any of the library's ways."""

import json

import pytest
from record_rows import ALPACA, HH, write

from course_lib.data import read_records, reading
from course_lib.data.hub import load_hub
from course_lib.errors import CourseError

datasets = pytest.importorskip("datasets")

MIXED = [
    {"instruction": f"Say {n}", "output": text} for n, text in enumerate(["007", "true", "null", "plain", '"quoted"'])
]
DATES = [{"instruction": "When?", "output": "2020-01-01"}, {"instruction": "And?", "output": "2021-12-31"}]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in which `datasets` finds names as on the hub, without a network and with a cache of its own."""
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def texts(name, split="train", **options):
    return [row["output"] for row in load_hub(name, split, **options)]


def test_json_texts_come_back_as_they_were(hub):
    """Through Arrow, "007" beside a number becomes 7, and a column of dates becomes timestamps."""
    mixed = [*MIXED, {"instruction": "A number", "output": 7}]
    write(hub / "some" / "mixed" / "train.jsonl", mixed)
    assert texts("some/mixed") == [row["output"] for row in mixed]
    assert [type(value) for value in datasets.load_dataset("some/mixed", split="train")["output"]] != [str] * 6
    write(hub / "some" / "dates" / "train.jsonl", DATES)
    assert texts("some/dates") == ["2020-01-01", "2021-12-31"]
    assert [record.response for record in read_records("some/dates").records] == ["2020-01-01", "2021-12-31"]
    (hub / "some" / "list").mkdir()
    (hub / "some" / "list" / "train.json").write_text(json.dumps(mixed))
    assert texts("some/list") == [row["output"] for row in mixed]


def test_csv_texts_come_back_as_they_were(hub):
    folder = hub / "some" / "table"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("instruction,output\nSay,007\nSay,NA\nSay,true\n")
    (folder / "test.csv").write_text("instruction,output\nSay,2020-01-01\n")
    assert texts("some/table") == ["007", "NA", "true"]
    assert texts("some/table", "test") == ["2020-01-01"]


def test_the_cards_word_on_a_table_is_heard(hub):
    folder = hub / "some" / "table"
    folder.mkdir(parents=True)
    (folder / "rows.csv").write_text("Say|007\nSay|1,5\n")
    card = {"config_name": "default", "sep": "|", "data_files": [{"split": "train", "path": "rows.csv"}]}
    card |= {"names": ["instruction", "output"]}
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps([card])}\n---\n")
    assert texts("some/table") == ["007", "1,5"]


def test_parquet_and_splits(hub):
    folder = hub / "someone" / "recorded"
    folder.mkdir(parents=True)
    datasets.Dataset.from_list([HH, HH]).to_parquet(folder / "train.parquet")
    assert list(load_hub("someone/recorded", "train")) == [HH, HH]
    with pytest.raises(CourseError, match="recorded has no split 'no-such-split'. It has train"):
        load_hub("someone/recorded", "no-such-split")
    with pytest.raises(CourseError, match="hub did not give it: HF_HUB_OFFLINE is set"):
        read_records("nobody/no-such-data-set")


def test_the_librarys_expressions_for_splits(hub):
    write(hub / "some" / "set" / "train.jsonl", MIXED)
    write(hub / "some" / "set" / "test.jsonl", DATES)
    all_texts = [row["output"] for row in MIXED]
    assert texts("some/set", "train[:2]") == all_texts[:2]
    assert texts("some/set", "train[-20%:]+test[:1]") == [all_texts[-1], "2020-01-01"]
    assert texts("some/set", "all") == [*all_texts, "2020-01-01", "2021-12-31"]


def test_what_was_downloaded_is_read_offline(hub):
    """The hub's cache holds the files themselves; the copy that `datasets` makes of them is the second choice."""
    snapshot = hub / "hub" / "datasets--some--cached" / "snapshots" / "abc"
    write(snapshot / "train.jsonl", DATES)
    write(snapshot / "test.jsonl", DATES[:1])
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    assert texts("some/cached") == ["2020-01-01", "2021-12-31"]
    assert texts("some/cached", "test") == ["2020-01-01"]


def test_a_converted_copy_gives_back_texts_or_is_refused(hub):
    """All that is left is what `datasets` made of it: mixed texts can be told, dates cannot."""
    for name, rows in (("mixed", [*MIXED, {"instruction": "A number", "output": 7}]), ("dates", DATES)):
        write(hub / "some" / name / "train.jsonl", rows)
        datasets.load_dataset(f"some/{name}", split="train", cache_dir=str(hub / "cache"))
        (hub / "cache" / name).rename(hub / "cache" / f"some___{name}")
        (hub / "some" / name / "train.jsonl").unlink()
        (hub / "some" / name).rmdir()
    assert texts("some/mixed") == ["007", "true", "null", "plain", "quoted", "7"]
    with pytest.raises(CourseError, match="'output' is of type datetime, expected a text"):
        read_records("some/dates")


def test_the_hub_is_asked_for_split_and_configuration(monkeypatch):
    asked = []
    monkeypatch.setattr(reading, "load_hub", lambda *arguments: asked.append(arguments) or [HH])
    assert read_records("some/set", split="test", config="main").records[0].source == "some/set[test]:0"
    assert read_records("some/set").records[0].part == "train"
    assert asked == [("some/set", "test", "main"), ("some/set", "train", None)]


def test_a_mistyped_path_is_no_riddle(hub):
    write(hub / "rows" / "a.jsonl", [ALPACA])
    with pytest.raises(CourseError, match=r"row is neither a file nor a folder, .* Did you mean rows\?"):
        read_records("row")
