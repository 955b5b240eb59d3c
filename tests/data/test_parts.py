"""A folder's training and held-out part, in the layouts that real exports have."""

import json
from pathlib import PurePath

import pytest
from record_rows import ALPACA, CHAT, write

from course_lib.data import read_records
from course_lib.data.parts import part_named, part_of, read_folder
from course_lib.errors import CourseError

PATHS = {  # as data sets on the hub and exports of tools name their files
    "train": [
        "train.jsonl",
        "data/train-00000-of-00001.parquet",
        "harmless-base/train.jsonl.gz",
        "default/train/0000.parquet",
        "train_sft-00000-of-00003.parquet",
        "auxiliary_train-00000.parquet",
        "alpaca_data_train.json",
        "gsm8k.train.jsonl",
        "TRAIN.JSONL",
        "trainData.json",
        "my-training-set.csv",
        "test/train.jsonl",
        "unit_test_generation_train.jsonl",
        "trainset.jsonl",
        "traindata.csv",
    ],
    "validation": [
        "valid.jsonl",
        "val.json",
        "validation_matched-00000.parquet",
        "dev.jsonl",
        "data/dev-00000-of-00001.jsonl",
        "squad-dev-v2.0.json",
        "eval/part1.jsonl",
        "alpaca_eval.json",
        "held_out.jsonl",
        "held-out/a.jsonl",
        "heldOut.jsonl",
        "my.holdout.csv",
        "devset.jsonl",
        "gsm8k_valset.jsonl",
        "evals.jsonl",
    ],
    "test": [
        "test.jsonl",
        "data/test-00000-of-00001.jsonl",
        "testset.jsonl",
        "testdata/a.jsonl",
        "helpful-base/test.jsonl.gz",
        "gsm8k_test.jsonl",
        "rows.test.ndjson",
        "tests/a.jsonl",
        "train/test.jsonl",
    ],
    "": [
        "data.jsonl",
        "latest.jsonl",
        "contest.json",
        "trainer_state.json",
        "evaluate.json",
        "a/b/c.csv",
        "strain.csv",
    ],
}


@pytest.mark.parametrize(("part", "path"), [(part, path) for part, paths in PATHS.items() for path in paths])
def test_the_part_is_told_by_the_name_or_the_nearest_folder(part, path):
    assert part_of(PurePath(path)) == part


def test_words_count_whole_and_the_last_one_decides():
    assert part_named("a test of training") == "train"
    assert part_named("attested") == ""


def test_a_folder_is_sorted_and_nothing_is_passed_over_in_silence(tmp_path):
    for name in ("data/train-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl", "extra.jsonl"):
        write(tmp_path / name, [ALPACA])
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "dataset_infos.json").write_text("{}")
    for hidden in (".ipynb_checkpoints/train-checkpoint.jsonl", "__MACOSX/._train.jsonl", ".cache/train.jsonl"):
        write(tmp_path / hidden, [ALPACA])  # copies, that would count twice
    folder = read_folder(tmp_path)
    assert [path.name for path in folder.training] == ["train-00000-of-00001.jsonl"]
    assert folder.held_out == ("test", [tmp_path / "data" / "test-00000-of-00001.jsonl"])
    assert folder.report() == [
        "train: data/train-00000-of-00001.jsonl",
        "held out (test): data/test-00000-of-00001.jsonl",
        "not read: README.md, dataset_infos.json, extra.jsonl",
    ]


def test_the_validation_part_comes_before_the_test_part(tmp_path):
    for name in ("train.jsonl", "dev.jsonl", "test.jsonl"):
        write(tmp_path / name, [ALPACA])
    assert read_folder(tmp_path).report() == [
        "train: train.jsonl",
        "held out (validation): dev.jsonl",
        "not read: test.jsonl",
    ]


def test_files_of_no_part_are_for_training_where_nothing_else_is(tmp_path):
    for name in ("a.jsonl", "b/c.json", "test.jsonl"):
        write(tmp_path / name, [ALPACA])
    assert read_folder(tmp_path).report() == ["train: a.jsonl, b/c.json", "held out (test): test.jsonl"]


def test_many_shards_are_shown_as_one_pattern(tmp_path):
    for number in range(12):
        write(tmp_path / f"train-{number:05}-of-00012.jsonl", [ALPACA])
    assert read_folder(tmp_path).report() == ["train: train-*-of-*.jsonl (12 files)"]


def test_a_folder_without_a_training_part_or_without_records(tmp_path):
    write(tmp_path / "held" / "test.jsonl", [ALPACA])
    with pytest.raises(CourseError, match=r"has no training part: test.jsonl is held out. Name a file to train on it"):
        _ = read_folder(tmp_path / "held").training
    (tmp_path / "empty").mkdir()
    with pytest.raises(CourseError, match="has no file that ends with"):
        read_records(tmp_path / "empty")
    (tmp_path / "empty" / "all.zip").write_text("x")
    with pytest.raises(CourseError, match="It has all.zip: unpack it"):
        read_records(tmp_path / "empty")
    (tmp_path / "empty" / "a.txt").write_text("x")
    with pytest.raises(CourseError, match="Of plain text, name one file, or let course prepare"):
        read_records(tmp_path / "empty")


def test_the_names_above_the_folder_do_not_matter(tmp_path):
    write(tmp_path / "test" / "set" / "a.jsonl", [ALPACA])
    assert read_folder(tmp_path / "test" / "set").training


def test_records_know_their_part(tmp_path):
    write(tmp_path / "train.jsonl", [ALPACA, {**CHAT, "split": "test"}])
    write(tmp_path / "dev.jsonl", [ALPACA])
    reading = read_records(tmp_path)
    assert [(record.source.split("/")[-1], record.part) for record in reading.records] == [
        ("dev.jsonl:1", "validation"),
        ("train.jsonl:1", "train"),
        ("train.jsonl:2", "test"),  # the row says so itself
    ]
    assert not reading.unused
    assert "parts: 1 validation, 1 train, 1 test" in str(reading)
    assert len(read_records(tmp_path, split="validation").records) == 1
    with pytest.raises(CourseError, match="has no test part. It has validation, train"):
        read_records(tmp_path, split="test")
    with pytest.raises(CourseError, match="There is no part 'dev'. The parts of a folder are train, validation, test"):
        read_records(tmp_path, split="dev")
    path = tmp_path / "one.json"
    path.write_text(json.dumps([{**ALPACA, "split": "somewhere"}]))
    assert read_records(path).unused == {"split": 1}
