"""The byte-level tokenizer: a textbook example, exact round trips, and the `tokenizers` library's ids."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from course_lib.data import style_corpus
from course_lib.scratch import BPETokenizer

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


@given(st.lists(st.integers(0, TRAINED.vocab_size - 1)))
def test_any_ids_have_exact_bytes(ids):
    assert TRAINED.decode_bytes(ids) == b"".join(TRAINED.decode_bytes([i]) for i in ids)


def byte_letters():
    """GPT-2's printable letter for each byte, which `tokenizers` writes its vocabulary in."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def test_same_merges_give_the_ids_of_the_tokenizers_library():
    letters = byte_letters()

    def spell(i):
        return "".join(letters[b] for b in TRAINED.decode_bytes([i]))

    ordinary = TRAINED.vocab_size - len(TRAINED.special_tokens)
    vocabulary = {spell(i): i for i in range(ordinary)}
    reference = Tokenizer(models.BPE(vocabulary, [(spell(a), spell(b)) for a, b in TRAINED.merges]))
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in [TEXT, "naïve café — 你好, мир! 12345  \n\n\t x", "I'll they've 'tis\r\n", "a" * 50, ""]:
        assert TRAINED.encode(text) == reference.encode(text).ids


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
    with pytest.raises(ValueError, match="no saved BPETokenizer"):
        BPETokenizer.load(tmp_path / "bad.json")


def test_mistakes_name_the_value():
    with pytest.raises(ValueError, match="id 600 is outside the vocabulary of 600"):
        TRAINED.decode([600])
    with pytest.raises(ValueError, match="vocab_size 200"):
        BPETokenizer.train("x", 200)


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
