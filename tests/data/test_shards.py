"""Text to shards and back: exact tokens, idempotent, whole or refused."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from word_patterns import DENSE, GPT2, LLAMA3, QWEN2, trained_tokenizer

from course_lib.data import batches, pieces, style_corpus
from course_lib.data import shards as module
from course_lib.data.corpora import read_corpus, split_articles
from course_lib.data.shards import TokenShards, prepare
from course_lib.errors import CourseError
from course_lib.scratch import BPETokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train(style_corpus(), 400)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(style_corpus())
    return path


def read_all(folder, split):
    return np.concatenate([np.load(path) for path in sorted(folder.glob(f"{split}_*.npy"))])


def quiet(*args, **kwargs):
    return prepare(*args, say=lambda line: None, **kwargs)


def test_shards_hold_the_texts_tokens_in_order(text, tokenizer, tmp_path):
    out, ids = tmp_path / "out", tokenizer.encode(style_corpus())
    manifest = quiet([text], out, tokenizer, 0.9, shard_tokens=700)
    assert len(list(out.glob("train_*.npy"))) == -(-int(0.9 * len(ids)) // 700) > 2
    assert np.concatenate([read_all(out, "train"), read_all(out, "val")]).tolist() == ids
    assert len(read_all(out, "train")) == int(0.9 * len(ids))
    assert manifest["dtype"] == "uint16" == read_all(out, "val").dtype.name
    assert not list(out.glob(".*"))


def test_text_is_read_in_pieces_without_changing_a_token(text, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 57)
    quiet([text], tmp_path / "out", tokenizer)
    whole = np.concatenate([read_all(tmp_path / "out", s) for s in ("train", "val")])
    assert whole.tolist() == tokenizer.encode(style_corpus())


@pytest.mark.parametrize(("pattern", "prefix"), [(LLAMA3, False), (r"[\s\S]+", True)])
def test_pieces_with_other_patterns(text, tmp_path, monkeypatch, pattern, prefix):
    """Llama 3's joins line breaks to a full stop; the other does not cut at all, and puts a blank before every text."""
    monkeypatch.setattr(pieces, "PIECE", 83)
    tokenizer = trained_tokenizer(pattern, [style_corpus()], prefix)
    whole = tokenizer(style_corpus(), add_special_tokens=False)["input_ids"]
    tokenizer("some words", truncation=True, max_length=1)  # of an earlier call: not ours
    quiet([text], tmp_path / "out", tokenizer)
    assert [*read_all(tmp_path / "out", "train"), *read_all(tmp_path / "out", "val")] == whole


@pytest.mark.parametrize("pattern", [GPT2, QWEN2, LLAMA3], ids=["gpt2", "qwen2", "llama3"])
@pytest.mark.parametrize("line", DENSE)
def test_a_text_without_a_blank_between_words(tmp_path, pattern, line):
    """More than three pieces in which no two words have a blank between them."""
    tokenizer, text = trained_tokenizer(pattern, DENSE), line * 20_000
    (tmp_path / "dense.txt").write_text(text, encoding="utf-8", newline="")
    quiet([tmp_path / "dense.txt"], tmp_path / "out", tokenizer)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert np.array_equal(np.concatenate([read_all(tmp_path / "out", split) for split in ("train", "val")]), whole)


@pytest.mark.parametrize("split", [False, True])
def test_an_option_of_an_earlier_call_does_not_reach_the_shards(tmp_path, split):
    """transformers keeps `split_special_tokens` in what works inside, until the next call of its own."""
    tokenizer = trained_tokenizer(GPT2, [style_corpus()])
    tokenizer.add_special_tokens({"eos_token": "<|end|>"})
    (tmp_path / "log.txt").write_text("So logged.<|end|>" * 50)
    tokenizer("some words", truncation=True, max_length=1, split_special_tokens=not split)
    tokenizer.split_special_tokens = split
    quiet([tmp_path / "log.txt"], tmp_path / "out", tokenizer)
    ids = [*read_all(tmp_path / "out", "train"), *read_all(tmp_path / "out", "val")]
    assert ids.count(tokenizer.eos_token_id) == (0 if split else 50)
    assert ids == tokenizer("So logged.<|end|>" * 50, add_special_tokens=False)["input_ids"]
    tokenizer.split_special_tokens = not split
    with pytest.raises(CourseError, match="other texts or settings"):
        quiet([tmp_path / "log.txt"], tmp_path / "out", tokenizer)


@pytest.mark.weights
def test_pieces_with_a_real_tokenizer(text, smollm2, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 301)
    _, tokenizer = smollm2
    quiet([text, text], tmp_path / "out", tokenizer)
    ids = tokenizer(style_corpus(), add_special_tokens=False)["input_ids"]
    got = np.concatenate([read_all(tmp_path / "out", s) for s in ("train", "val")]).tolist()
    assert got == [*ids, tokenizer.eos_token_id, *ids]


def test_again_changes_nothing_and_another_text_is_refused(text, tokenizer, tmp_path):
    out, said = tmp_path / "out", []
    quiet([text], out, tokenizer)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()}
    prepare([text], out, tokenizer, say=said.append)
    assert said[0].startswith(f"{out} is current: train ")
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()}
    text.write_text("Another text, long enough to be cut in two.")
    with pytest.raises(
        CourseError, match="holds shards of other texts or settings .*choose another folder, or --force"
    ):
        quiet([text], out, tokenizer)
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()}
    quiet([text], out, tokenizer, force=True)
    assert len(read_all(out, "train")) < 50


def test_shards_of_an_older_version_are_not_taken_for_current(text, tokenizer, tmp_path):
    """The first version's manifest has no version, and its fingerprint is of the text, the tokenizer and settings."""
    out = tmp_path / "out"
    quiet([text], out, tokenizer)
    manifest = json.loads((out / "shards.json").read_text())
    assert manifest.pop("version") == module.VERSION
    digest = hashlib.sha256(json.dumps([0.9, 100_000_000, module._described(tokenizer)]).encode())
    digest.update(hashlib.sha256(text.read_bytes()).digest())
    manifest["fingerprint"] = digest.hexdigest()
    (out / "shards.json").write_text(json.dumps(manifest))
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(CourseError, match="another version of this course .*prepare them again with --force"):
        quiet([text], out, tokenizer)
    assert before == {path: path.read_bytes() for path in out.iterdir()}
    quiet([text], out, tokenizer, force=True)
    assert json.loads((out / "shards.json").read_text())["version"] == module.VERSION


def test_a_forced_run_that_fails_leaves_the_old_shards(text, tokenizer, tmp_path):
    out = tmp_path / "out"
    quiet([text], out, tokenizer)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "bad.txt").write_bytes(style_corpus().encode() + b"\xff")
    with pytest.raises(CourseError, match="bad.txt is not UTF-8 text"):
        quiet([tmp_path / "bad.txt"], out, tokenizer, force=True)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize("damage", ["changed", "cut"])
def test_a_damaged_shard_is_noticed_by_the_command_and_mended_by_force(text, tokenizer, tmp_path, damage):
    out = tmp_path / "out"
    quiet([text], out, tokenizer)
    path = out / "train_00000.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + b"\0\0" if damage == "changed" else whole[:-2])
    with pytest.raises(CourseError, match=r"(was changed|is cut short).*prepare it again with --force"):
        quiet([text], out, tokenizer)
    quiet([text], out, tokenizer, force=True)
    assert path.read_bytes() == whole


def test_more_shards_than_their_names_can_number_are_refused(text, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST", 10)
    with pytest.raises(CourseError, match="shard_tokens=5 makes more than 10 shards"):
        quiet([text], tmp_path / "out", tokenizer, shard_tokens=5)


def test_shards_that_are_not_ours_are_not_replaced(text, tokenizer, tmp_path):
    np.save(tmp_path / "train_00000.npy", np.arange(5))
    with pytest.raises(CourseError, match="--force"):
        quiet([text], tmp_path, tokenizer)
    assert np.load(tmp_path / "train_00000.npy").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("when", ["tokenising", "writing"])
def test_a_killed_run_is_noticed_and_goes_on(text, tokenizer, tmp_path, monkeypatch, when):
    out, original = tmp_path / "out", module._write_shards

    def killed(folder, split, *rest):
        if when == "writing" and split == "train":
            return original(folder, split, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_write_shards", killed)
    with pytest.raises(KeyboardInterrupt):
        quiet([text], out, tokenizer)
    with pytest.raises(CourseError, match="was not finished|has no shard"):
        TokenShards(out, "train")
    monkeypatch.undo()
    quiet([text], out, tokenizer)
    assert TokenShards(out, "train").tokens == int(0.9 * len(tokenizer.encode(style_corpus())))


def test_a_shard_cut_short_is_noticed_on_reading(text, tokenizer, tmp_path):
    quiet([text], tmp_path / "out", tokenizer)
    path = tmp_path / "out" / "train_00000.npy"
    whole = path.read_bytes()
    for size in (0, 40, len(whole) - 2, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(CourseError, match=r"train_00000.npy is cut short or damaged"):
            TokenShards(tmp_path / "out", "train")
    np.save(path, np.load(tmp_path / "out" / "val_00000.npy"))
    with pytest.raises(CourseError, match="tokens and should have"):
        TokenShards(tmp_path / "out", "train")
    with pytest.raises(CourseError, match="should have"):  # the command notices too, before it says "current"
        quiet([text], tmp_path / "out", tokenizer)
    path.unlink()
    with pytest.raises(CourseError, match="has no shard train_00000.npy"):
        TokenShards(tmp_path / "out", "train")


def test_pickled_shards_are_refused(tmp_path):
    np.save(tmp_path / "train_00000.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(CourseError, match="damaged"):
        TokenShards(tmp_path, "train")
    np.save(tmp_path / "train_00000.npy", np.ones(4))
    with pytest.raises(CourseError, match="expected token ids"):
        TokenShards(tmp_path, "train")


def test_blocks_come_from_disk_and_feed_batches(tmp_path):
    np.save(tmp_path / "train_00000.npy", np.arange(10, dtype=np.uint16))
    np.save(tmp_path / "train_00001.npy", np.arange(100, 107, dtype=np.uint16))
    shards = TokenShards(tmp_path, "train", block_size=3)
    assert len(shards) == 5
    assert [shards[i].tolist() for i in range(5)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [100, 101, 102], [103, 104, 105]]
    assert shards[-1].tolist() == [103, 104, 105]
    assert all(isinstance(array, np.memmap) for array in shards.arrays)
    assert shards[np.array([4, 0])].tolist() == [[103, 104, 105], [0, 1, 2]]
    [batch, _] = batches(shards, 2, 2)
    assert batch.dtype == np.int64
    assert batch.shape == (2, 3)
    with pytest.raises(IndexError):
        shards[5]
    with pytest.raises(CourseError, match="fewer than one block of 11"):
        TokenShards(tmp_path, "train", block_size=11)


def test_a_large_vocabulary_takes_four_bytes(text, tmp_path, tokenizer):
    class Large:
        merges, special_tokens, numbering, vocab_size = [], [], None, 1 << 17

        def encode(self, text):
            return [ord(c) + 70_000 for c in text]

    assert quiet([text], tmp_path / "out", Large())["dtype"] == "uint32"
    assert read_all(tmp_path / "out", "train").min() >= 70_000


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_manifest_is_named(text, tokenizer, tmp_path, content):
    quiet([text], tmp_path / "o", tokenizer)
    (tmp_path / "o" / "shards.json").write_text(content)
    with pytest.raises(CourseError, match="shards.json is damaged"):
        quiet([text], tmp_path / "o", tokenizer)
    with pytest.raises(CourseError, match="shards.json is damaged"):
        TokenShards(tmp_path / "o", "train")


def test_bad_input(text, tokenizer, tmp_path):
    with pytest.raises(CourseError, match="train_ratio=1.5"):
        quiet([text], tmp_path / "o", tokenizer, 1.5)
    with pytest.raises(CourseError, match="There is no text file"):
        quiet([tmp_path / "absent.txt"], tmp_path / "o", tokenizer)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(CourseError, match="one part is empty"):
        quiet([tmp_path / "empty.txt"], tmp_path / "o", tokenizer)
    with pytest.raises(CourseError, match="block_size=0: at least 1"):
        TokenShards(tmp_path, block_size=0)
    (tmp_path / "bad.txt").write_bytes(b"abc \xff\xfe")
    with pytest.raises(CourseError, match="bad.txt is not UTF-8"):
        quiet([tmp_path / "bad.txt"], tmp_path / "o2", tokenizer)


WIKI = " \n = First = \n \n Text of it . \n \n = = Section = = \n \n More . \n \n = Second = \n \n Other . \n"


def test_wikitext_folders(tmp_path):
    (tmp_path / "wiki.train.raw").write_text(WIKI)
    (tmp_path / "wiki.valid.tokens").write_text(WIKI)
    articles = read_corpus(tmp_path)
    assert len(articles) == 2
    assert "Section" in articles[0]
    assert "".join(articles) == WIKI
    assert read_corpus(tmp_path, "val", limit=1) == articles[:1]
    with pytest.raises(
        CourseError, match=r"neither wiki.test.raw nor wiki.test.tokens; it contains wiki.train.raw, wiki.valid"
    ):
        read_corpus(tmp_path, "test")
    with pytest.raises(CourseError, match="There is no corpus 'tinystorys': give tinystories, wikitext2"):
        read_corpus("tinystorys")


@pytest.mark.parametrize("content", ["", " \n\n\t", "\ufeff"])
def test_a_text_file_without_text_is_named(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CourseError, match=r"notes\.txt holds no text"):
        read_corpus(path)


def test_corpora_by_name(tmp_path, monkeypatch):
    """Recorded small files under the hub's names, read by `datasets` itself."""
    datasets = pytest.importorskip("datasets")
    stories = tmp_path / "roneneldan" / "TinyStories"
    wiki = tmp_path / "Salesforce" / "wikitext" / "wikitext-2-raw-v1"
    stories.mkdir(parents=True)
    wiki.mkdir(parents=True)
    for split in ("train", "validation"):
        rows = [{"text": f"Once {split}."}, {"text": ""}, {"text": "The end."}]
        datasets.Dataset.from_list(rows).to_parquet(str(stories / f"{split}.parquet"))
        rows = [{"text": line} for line in WIKI.splitlines(keepends=True)]
        datasets.Dataset.from_list(rows).to_parquet(str(wiki / f"{split}.parquet"))
    (wiki.parent / "README.md").write_text(
        "---\nconfigs:\n- config_name: wikitext-2-raw-v1\n  data_files:\n"
        "  - split: train\n    path: wikitext-2-raw-v1/train.parquet\n"
        "  - split: validation\n    path: wikitext-2-raw-v1/validation.parquet\n---\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert read_corpus("tinystories") == ["Once train.", "The end."]
    assert read_corpus("tinystories", "val", limit=1) == ["Once validation."]
    assert read_corpus("wikitext2") == split_articles(WIKI)


def test_the_real_wikitext():
    folder = Path(__file__).parents[3] / "shared" / "data" / "wikitext-2"
    if not folder.is_dir():
        pytest.skip("the real samples are not on this machine")
    articles = read_corpus(folder, "val")
    assert len(articles) == 60  # WikiText-2's validation part: 60 articles (Merity et al. 2016, table 1)
    assert json.dumps(articles[0])[:30].startswith('" \\n = ')


def test_the_command(text, tokenizer, tmp_path, capsys):
    from course_lib.cli import main

    tokenizer.save(tmp_path / "tokenizer.json")
    command = ["data", "prepare", "--input", str(text), "--tokenizer", str(tmp_path / "tokenizer.json")]
    assert main([*command, "--output", str(tmp_path / "out"), "--train-ratio", "0.8"]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'out' / 'train_00000.npy'}: {TokenShards(tmp_path / 'out').tokens:,} tokens" in out
    assert main([*command, "--output", str(tmp_path / "out"), "--train-ratio", "0.7"]) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*command[:-1], str(text) + ".json", "--output", str(tmp_path / "o")]) == 2
    assert "is not a saved BPETokenizer" in capsys.readouterr().err
    assert main([*command, "--output", str(tmp_path / "o"), "--documents", "3"]) == 2
    assert f"and {text} is neither" in capsys.readouterr().err


def test_the_command_with_folders_of_one_name(tokenizer, tmp_path, capsys):
    from course_lib.cli import main

    tokenizer.save(tmp_path / "tokenizer.json")
    folders = [tmp_path / "one" / "wiki", tmp_path / "two" / "wiki"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "wiki.train.raw").write_text(WIKI + folder.parent.name)
    command = ["data", "prepare", "--input", *map(str, folders), "--tokenizer", str(tmp_path / "tokenizer.json")]
    assert main([*command, "--output", str(tmp_path / "o")]) == 0
    ids = [*read_all(tmp_path / "o", "train"), *read_all(tmp_path / "o", "val")]
    assert tokenizer.decode([int(i) for i in ids]) == "".join(
        "\n\n".join(split_articles(WIKI + name)) for name in ("one", "two")
    )
    assert main([*command, "--output", str(tmp_path / "o"), "--documents", "0"]) == 2
    assert "--documents 0: at least 1" in capsys.readouterr().err
