"""Text to words in windows: the words of the whole text, however it is divided, and each character seen a few times."""

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from word_patterns import GPT2

from course_lib.scratch import words
from course_lib.scratch.words import mended, split_text

PARTS = [
    "a",
    "it's",
    "they'll",
    "'v",
    " b",
    "7",
    " 12",
    "...",
    "\n",
    "   ",
    "\r\n\t",
    "é",
    "我",
    "\u0301",
    "<|",
    "end|>",
]
SPECIAL = frozenset({"<|end|>", "<|end|>!"})


def joined(texts, **options):
    """The words and special tokens, in order."""
    found = []
    for some, special in split_text(texts, **options):
        found += some if special is None else [*some, special]
    return found


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(st.sampled_from(PARTS), max_size=60), window=st.integers(1, 20))
def test_windows_have_the_words_of_the_whole_text(parts, window):
    """Against GPT-2's pattern as it was published, by `regex`, over the whole text between two special tokens."""
    expected = []
    for part in regex.split(r"(<\|end\|>!?)", "".join(parts)):
        expected += [part] if part in SPECIAL else regex.findall(GPT2, part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "WINDOW", window)
        assert joined(parts, special_tokens=SPECIAL) == expected


def test_a_word_of_many_windows_is_looked_at_a_few_times(monkeypatch):
    """128 windows: again after each would be 64 times the text, and after 1, 2, 4, ... windows it is twice."""
    seen, find = 0, words._find_words

    def counting(text, start, end):
        nonlocal seen
        seen += end - start
        return find(text, start, end)

    monkeypatch.setattr(words, "_find_words", counting)
    text = "a" * (128 * words.WINDOW)
    assert joined([text]) == [text]
    assert len(text) <= seen < 4 * len(text)


def test_a_text_without_end_is_read_as_far_as_it_is_asked_for():
    def endless():
        while True:
            yield "and so on "

    some, special = next(split_text(endless()))
    assert some[:3] == ["and", " so", " on"]
    assert special is None
    assert sum(map(len, some)) < 2 * words.WINDOW


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\ud83d\ude00", "😀"),  # two halves are one character, as JavaScript writes it
        ("a\ud83db", "a\ufffdb"),
        ("\ude00", "\ufffd"),
        ("\ud83d\ud83d\ude00", "\ufffd😀"),
        ("\udc80\udcff", "\udc80\udcff"),  # Python's way to carry bytes that are not UTF-8
    ],
)
def test_half_a_surrogate_pair(text, expected):
    assert "".join(mended([text])) == expected
    assert "".join(mended(text)) == expected, "each half in a text of its own"
