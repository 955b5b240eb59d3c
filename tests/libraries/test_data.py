"""What tokenizers and datasets do that changes a result and raises nothing."""

import importlib
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


@pytest.mark.library(
    package="datasets",
    happens="`map` gives old rows from its cache after the function was changed, if a module holds the function",
    expected="The cache's key is made from the code that runs.",
    instead="What can be imported is hashed by its name. Pass `load_from_cache_file=False` after a change, or define "
    "the function in the script, where changes are noticed.",
    chapter="01_datasets",
)
def test_the_hash_of_a_function_of_a_module_is_its_name(tmp_path, monkeypatch):
    from datasets.fingerprint import Hasher

    def hash_of(source):
        (tmp_path / "preparation.py").write_text(source)
        monkeypatch.delitem(sys.modules, "preparation", raising=False)
        importlib.invalidate_caches()
        return Hasher.hash(importlib.import_module("preparation").label)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    changed = [f"def label(row):\n    return {{'label': {value}}}\n" for value in (1, 2)]
    assert hash_of(changed[0]) == hash_of(changed[1])
    constants = [eval(f"lambda row: {value}") for value in (1, 2)]
    assert Hasher.hash(constants[0]) != Hasher.hash(constants[1])
    monkeypatch.delitem(sys.modules, "preparation")


@pytest.mark.library(
    package="safetensors",
    happens="The same tensors with the same metadata are another file each time, if the metadata has several entries",
    expected="The format has no time stamp, so equal content has an equal checksum.",
    instead="Compare tensors, not files. The metadata stand in the file in the order of a hash table.",
    chapter="03_lora",
)
def test_metadata_stand_in_the_file_in_any_order():
    import numpy as np
    from safetensors.numpy import save

    def files(entries):
        metadata = {f"key{number}": "value" for number in range(entries)}
        return {save({"weight": np.ones(3, np.float32)}, metadata=metadata) for _ in range(20)}

    assert len(files(1)) == 1
    assert len(files(8)) > 1
