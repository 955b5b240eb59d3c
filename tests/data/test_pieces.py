"""A text encoded in pieces has the ids of the whole, whatever the tokenizer's pattern, and each part is read once."""

from functools import cache, partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from word_patterns import DENSE, GPT2, LLAMA3, QWEN2, trained_tokenizer

from course_lib.data import pieces, style_corpus
from course_lib.data.pieces import encode_in_pieces
from course_lib.data.shards import encode_many
from course_lib.scratch import BPETokenizer

OURS = "the NumPy edition's"
NAMES = ["ours", "gpt2", "qwen2", "llama3"]
NO_WORDS = r"[\s\S]+"  # merges may cross any border
SIGNS = [*"ab1é 我。.,;()'\n\r\t\u0301", "  ", "it's", "<|end|>", "12345", "\n\n", " \n", "'s"]


@cache
def encoder(pattern, prefix=False):
    texts = [*DENSE, "".join(SIGNS) * 3, style_corpus()]
    if pattern == OURS:
        return partial(encode_many, BPETokenizer.train("".join(texts), 600, ["<|end|>"]))
    tokenizer = trained_tokenizer(pattern, texts, prefix)
    tokenizer.add_special_tokens({"eos_token": "<|end|>"})
    return partial(encode_many, tokenizer)


def in_pieces(blocks, encode):
    """The ids, and how many characters each piece has."""
    found = list(encode_in_pieces(blocks, encode))
    return [i for _, ids in found for i in ids], [characters for characters, _ in found]


@pytest.mark.parametrize("pattern", [OURS, GPT2, QWEN2, LLAMA3, NO_WORDS], ids=[*NAMES, "no words"])
@pytest.mark.parametrize("prefix", [False, True])
@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.sampled_from(SIGNS), max_size=80), size=st.integers(1, 40))
def test_any_text_in_pieces_has_its_own_ids(pattern, prefix, parts, size):
    text, encode = "".join(parts), encoder(pattern, prefix)
    blocks = [text[start : start + size] for start in range(0, len(text), size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE", 7)
        patch.setattr(pieces, "TOGETHER", 3)
        patch.setattr(pieces, "WINDOW", 40)
        ids, lengths = in_pieces(blocks, encode)
    assert ids == encode([text])[0]
    assert sum(lengths) == len(text)


@pytest.mark.parametrize("pattern", [OURS, GPT2, QWEN2, LLAMA3], ids=NAMES)
@pytest.mark.parametrize("line", DENSE)
def test_dense_text_is_cut_all_the_same(pattern, line, monkeypatch):
    """Equality alone would hold for a text that is never cut, so the pieces are counted too."""
    monkeypatch.setattr(pieces, "PIECE", 1000)
    monkeypatch.setattr(pieces, "TOGETHER", 4)
    text, encode = line * 1500, encoder(pattern)
    ids, lengths = in_pieces([text[:5000], text[5000:]], encode)
    assert ids == encode([text])[0]
    assert max(lengths[:-1]) < 1100
    assert len(lengths) == pytest.approx(len(text) / 1000, abs=2)


def test_a_piece_grows_where_a_text_has_no_border(monkeypatch):
    """One word of 40 pieces, between two texts that can be cut."""
    monkeypatch.setattr(pieces, "PIECE", 1000)
    monkeypatch.setattr(pieces, "TOGETHER", 4)
    text, encode = "a word, " * 800 + "我" * 40_000 + " a word" * 800, encoder(QWEN2)
    ids, lengths = in_pieces([text[start : start + 4000] for start in range(0, len(text), 4000)], encode)
    assert ids == encode([text])[0]
    assert 40_000 < max(lengths) < 43_000
    assert len(lengths) > 8


def test_a_tokenizer_that_puts_a_blank_before_every_text_reads_the_whole():
    """As Llama 2's: no two pieces have the ids of the whole, so there is one piece and nothing is lost."""

    def encode(texts):
        return [[32, *map(ord, text)] if text else [] for text in texts]

    text = "one two, three\n" * 20_000
    assert in_pieces([text], encode) == ([32, *map(ord, text)], [len(text)])


def test_a_cut_that_only_its_surroundings_allow_is_taken_back(monkeypatch):
    """Ids that depend on how far the text's beginning is: around a cut all looks well, and the whole piece tells."""
    monkeypatch.setattr(pieces, "PIECE", 300)
    text = "ab, " * 1000

    def encode(texts):
        return [[ord(c) + 1000 * (n >= 290) for n, c in enumerate(each)] for each in texts]

    assert in_pieces([text], encode) == (encode([text])[0], [len(text)])


@pytest.mark.parametrize("pattern", [GPT2, QWEN2], ids=["gpt2", "qwen2"])
@pytest.mark.parametrize("text", [style_corpus() * 40, DENSE[0] * 20_000, "我" * 300_000], ids=["log", "code", "word"])
def test_little_is_encoded_twice(pattern, text):
    """Trying the cuts costs less than a third of the text, in characters; the whole text is encoded once."""
    encoded = 0

    def encode(texts):
        nonlocal encoded
        encoded += sum(map(len, texts))
        return encoder(pattern)(texts)

    blocks = (text[start : start + 100_000] for start in range(0, len(text), 100_000))
    _, lengths = in_pieces(blocks, encode)
    assert sum(lengths) == len(text) >= 3 * pieces.PIECE
    assert len(text) <= encoded < 1.3 * len(text)


def test_an_empty_text_has_no_ids():
    assert in_pieces([], encoder(GPT2)) == ([], [0])
