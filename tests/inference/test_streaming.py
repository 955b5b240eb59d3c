"""Pieces of text: they add up to the text, split no character, and hold no stop sequence."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.errors import CourseError
from course_lib.inference import complete, generate, stream
from course_lib.inference.pieces import TextPieces
from course_lib.inference.stopping import Row


class Bytes:
    """A tokenizer whose tokens are bytes: every character but ASCII's has several."""

    eos_token_id = None

    def __call__(self, text, **_):
        return {"input_ids": list(text.encode())}

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


@given(st.text(max_size=30), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_pieces_add_up_and_split_no_character(text, size):
    ids, pieces = list(text.encode()), TextPieces(Bytes())
    groups = [ids[at : at + size] for at in range(0, len(ids), size)]
    parts = [pieces.add(group) for group in groups]
    parts.append(pieces.add([], last=True))
    assert "".join(parts) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in part for part in parts)


@given(st.binary(max_size=20))
@settings(max_examples=100, deadline=None)
def test_bytes_that_are_no_text_come_out_as_the_tokenizer_has_them(data):
    pieces = TextPieces(Bytes())
    parts = [pieces.add([byte]) for byte in data]
    parts.append(pieces.add([], last=True))
    assert "".join(parts) == Bytes().decode(list(data))


def test_a_row_holds_back_what_may_become_a_stop_sequence():
    row = Row({9}, [[1, 2, 3], [5]])
    assert [row.add(token) for token in (4, 1, 2, 1, 2, 3)] == [[4], [], [], [1, 2], [], []]
    assert (row.done, row.tokens) == (True, [4, 1, 2])
    row = Row({9}, [[1, 2, 3]])
    assert [row.add(token) for token in (4, 1, 9)] == [[4], [], [1]]
    assert (row.done, row.tokens, row.add(4)) == (True, [4, 1], [])
    for stop in ([[2, 3], [1, 2, 3]], [[1, 2, 3], [2, 3]]):  # the order of the sequences does not matter
        row = Row({9}, stop)
        assert [row.add(token) for token in (4, 1, 2, 3)] == [[4], [], [], []]
        assert (row.done, row.tokens) == (True, [4])
    with pytest.raises(CourseError, match="stop sequence is empty"):
        Row((), [[]])


@pytest.mark.parametrize("stop", ["ab", ["ab"], [7, 8]])
def test_a_stop_that_could_never_be_found_is_refused(tiny_llama, stop):
    with pytest.raises(CourseError, match="is not a list of token ids"):
        generate(tiny_llama, [[5, 6]], 2, stop=stop)
    if stop == ["ab"]:
        return
    with pytest.raises(CourseError, match="is not a list of token ids|is one text"):
        list(stream(tiny_llama, Bytes(), [5, 6], 2, stop=stop))


def test_generation_stops_at_a_sequence(tiny_llama):
    free = generate(tiny_llama, [[5, 6]], 12, eos_token_id=())[0]
    place = next(at for at in range(2, 11) if free[at : at + 2] not in (free[at - 1 : at + 1], free[at - 2 : at]))
    first = next(at for at in range(11) if free[at : at + 2] == free[place : place + 2])
    stopped = generate(tiny_llama, [[5, 6]], 12, eos_token_id=(), stop=[free[place : place + 2]])[0]
    assert stopped == free[:first]


@pytest.mark.weights
def test_a_stream_is_the_completion(smollm2):
    model, tokenizer = smollm2
    prompt = "Write three emojis and the German word for street:"
    pieces = list(stream(model, tokenizer, prompt, 24))
    assert "".join(pieces) == complete(model, tokenizer, [prompt], 24)[0]
    assert all(pieces)
    word = "".join(pieces).split()[3]
    cut = "".join(stream(model, tokenizer, prompt, 24, stop=[" " + word]))
    assert cut == "".join(pieces).split(" " + word)[0]


@pytest.mark.weights
def test_a_stop_text_may_begin_and_end_within_tokens(smollm2):
    model, tokenizer = smollm2
    prompt, new = "Write three emojis and the German word for street:", []
    whole = "".join(stream(model, tokenizer, prompt, 24, new_tokens=new))
    assert new == generate(model, [tokenizer(prompt)["input_ids"]], 24)[0]
    letters = next(token for token in map(tokenizer.decode, new) if len(token) > 3 and token.strip().isalpha())[-3:-1]
    cut: list[int] = []
    assert "".join(stream(model, tokenizer, prompt, 24, stop=[letters], new_tokens=cut)) == whole.split(letters)[0]
    assert cut == new[: len(cut)]
    assert len(cut) < len(new)
