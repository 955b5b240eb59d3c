"""An answer's text as it comes: stop texts, characters, tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.errors import CourseError
from course_lib.inference.pieces import Answer


class ByteTokenizer:
    """A token a byte of UTF-8, so that characters are split over tokens."""

    def decode(self, tokens):
        return bytes(tokens).decode("utf-8", errors="replace")


class PieceTokenizer:
    """A token a piece of text."""

    pieces = ("a", "b", "ab", "aab", "", "\n", "User", ":", "é")

    def decode(self, tokens):
        return "".join(self.pieces[token] for token in tokens)


def pieces_of(answer, tokens):
    """What comes out token by token, until the end or a stop text."""
    out = []
    for number, token in enumerate(tokens):
        out.append(answer.add([token], last=number == len(tokens) - 1))
        if answer.stopped:
            break
    return [token for some, _ in out for token in some], [text for _, text in out]


def test_a_stop_text_that_begins_and_ends_within_tokens():
    answer = Answer(PieceTokenizer(), ["\nUser:"])
    tokens, texts = pieces_of(answer, [0, 5, 6, 7, 1])  # a, line end, User, colon
    assert (tokens, texts, answer.stopped) == ([0], ["a", "", "", ""], True)


def test_what_only_began_like_a_stop_text_is_let_go():
    answer = Answer(PieceTokenizer(), ["\nUser:"])
    tokens, texts = pieces_of(answer, [5, 6, 1])
    assert (tokens, texts, answer.stopped) == ([5, 6, 1], ["", "", "\nUserb"], False)


def test_a_token_that_only_begins_before_the_stop_text_gives_its_text_alone():
    tokens, texts = pieces_of(Answer(PieceTokenizer(), ["b"]), [0, 3])  # a, aab
    assert (tokens, "".join(texts)) == ([0], "aaa")


def test_characters_are_not_split():
    tokens = list("aé€🙂".encode())
    given_out, texts = pieces_of(Answer(ByteTokenizer()), tokens)
    assert given_out == tokens
    assert [text for text in texts if text] == ["a", "é", "€", "🙂"]


@given(st.lists(st.integers(0, 8), max_size=30), st.lists(st.text("ab\nUser:é", min_size=1, max_size=4), max_size=3))
def test_the_pieces_are_the_text_before_the_first_stop_text(tokens, stops):
    answer = Answer(PieceTokenizer(), stops)
    given_out, texts = pieces_of(answer, tokens)
    whole = PieceTokenizer().decode(tokens)
    # The first stop text is the one that is complete first; of those complete at once, the one that begins first.
    ends = []
    for count in range(len(tokens) + 1):
        so_far = PieceTokenizer().decode(tokens[:count])
        if ends := [so_far.find(stop) for stop in stops if stop in so_far]:
            break
    expected = whole[: min(ends)] if ends else whole
    assert "".join(texts) == expected
    assert answer.stopped == bool(ends)
    assert expected.startswith(PieceTokenizer().decode(given_out))
    if not ends:
        assert given_out == tokens


def test_without_a_tokenizer_there_are_tokens_alone():
    assert Answer(None).add([1, 2]) == ([1, 2], "")
    with pytest.raises(CourseError, match="tokenizer"):
        Answer(None, ["x"])


def test_an_empty_stop_text_is_refused():
    with pytest.raises(CourseError, match="empty"):
        Answer(ByteTokenizer(), [""])
