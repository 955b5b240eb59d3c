"""What tokenizers and datasets do that changes a result and raises nothing."""

import json
import subprocess
import sys

import pytest

TRAIN = """
import random
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
random.seed(0)
words = ["".join(random.choice("abcdefgh") for _ in range(random.randint(2, 9))) for _ in range(1500)]
wordpiece, bpe = models.WordPiece(unk_token="?"), models.BPE()
for model, trainer in ((wordpiece, trainers.WordPieceTrainer), (bpe, trainers.BpeTrainer)):
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator([" ".join(words)], trainer(vocab_size=300, special_tokens=["?"], show_progress=False))
    print(sorted(made.get_vocab().items()))
"""


@pytest.mark.library(
    package="tokenizers",
    happens="Training WordPiece twice on the same text gives two different vocabularies",
    expected="Training draws nothing at random, so the same text gives the same file, as it does for BPE.",
    instead="Keep the tokenizer's file beside the model that was trained with it; there is no seed to set.",
    chapter="00_foundations",
)
def test_wordpiece_is_not_repeatable():
    runs = [
        subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, check=True).stdout.splitlines()
        for _ in range(3)
    ]
    assert len({bpe for _, bpe in runs}) == 1
    assert len({wordpiece for wordpiece, _ in runs}) > 1


@pytest.mark.library(
    package="tokenizers",
    happens="`BpeTrainer` exceeds a `vocab_size` that is smaller than the alphabet",
    expected="A vocabulary has at most as many entries as were asked for.",
    instead="Read the size from the trained tokenizer before you make the model's embedding.",
    chapter="00_foundations",
)
def test_the_alphabet_comes_first():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator(["zy ef cd ab"], trainers.BpeTrainer(vocab_size=5, show_progress=False))
    assert made.get_vocab_size() == 8


@pytest.mark.library(
    package="datasets",
    happens='A JSON column of mixed types turns strings into numbers: "007" is read as 7',
    expected="A string stays a string; a column of two types is an error.",
    instead="Write one type per column, or read JSON Lines with `course_lib.data.read_records`, which names the row.",
    chapter="01_datasets",
)
def test_strings_become_numbers(tmp_path):
    from datasets import load_dataset

    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"answer": value}) for value in (1, "007", "7", "true", "null", "plain")))
    rows = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["answer"][:] == [1, 7, 7, True, None, "plain"]


@pytest.mark.library(
    package="datasets",
    happens="`Dataset.from_list` drops a column that the first row lacks",
    expected="The columns are those of all rows, with None where a row has none.",
    instead="Give every row every key, or pass `features=`.",
    chapter="01_datasets",
)
def test_the_first_row_decides_the_columns():
    from datasets import Dataset

    assert Dataset.from_list([{"a": 1}, {"a": 2, "b": 3}]).column_names == ["a"]
