"""A long text to token ids, piece by piece: exactly the ids that the whole text has, in the memory of some pieces.

A tokenizer cuts text into words before it merges, and its pattern decides where a word ends. GPT-2's puts a blank
before the word that follows; Qwen's and Llama 3's also put a bracket or a comma there, and a line break behind the
punctuation before it. No rule about characters holds for all of them, so each cut is proposed by a rule and then
tried on the tokenizer itself.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeAlias

Encoder: TypeAlias = Callable[[list[str]], list[list[int]]]  # several texts to the ids of each

PIECE = 1 << 16  # characters of a piece, or a few more
TOGETHER = 32  # pieces encoded in one call, on all cores where the tokenizer can
WINDOW = 256  # characters on each side of a cut that are looked at; patterns look one character ahead
TRIES = 32  # places tried for one cut

BLANK = re.compile(r"(?<=\w)(?= \w)")
# White space behind anything else, the border of a word or number, and the border between letters and digits.
CHANGE = re.compile(r"(?<=\S)(?:\b|(?=\s))|(?<=[^\W\d])(?=\d)|(?<=\d)(?=[^\W\d])")


def encode_in_pieces(blocks: Iterable[str], encode: Encoder) -> Iterator[tuple[int, list[int]]]:
    """Encode "".join(blocks) as `encode` would encode it in one call.

    A cut is accepted where the ids of the piece with `WINDOW` characters behind it end with the ids of these
    characters alone. So the ids are exact for every tokenizer that decides about a place without the text further on.
    Where no cut is found, as in a text that is one word, or with Llama 2's tokenizer, which puts a blank of its own
    before every text, the piece grows, at most to the whole text.

    Args:
        blocks: the text in parts of any size, in order.
        encode: makes ids of several texts, without a beginning or an end of its own.

    Returns:
        An iterator over pairs: the number of characters of a piece, and its ids.
    """
    text, enough = "", TOGETHER * PIECE  # what is not encoded yet, and how long it must be for the next look
    for block in blocks:
        text += block
        if len(text) >= enough:
            done = 0
            for cut, ids in _encode_to_cuts(text, _find_cuts(text, len(text) - WINDOW, encode), encode):
                yield cut - done, ids
                done = cut
            text = text[done:]
            enough = max(TOGETHER * PIECE, 2 * len(text))  # a piece that grows is looked at in time n and not n * n
    done = 0
    for cut, ids in _encode_to_cuts(text, [*_find_cuts(text, len(text), encode), len(text)], encode):
        yield cut - done, ids
        done = cut


def _encode_to_cuts(text: str, cuts: list[int], encode: Encoder) -> Iterator[tuple[int, list[int]]]:
    """The ids of the text up to each cut, from the one before. A cut that changes a token is left out.

    What follows the last accepted cut is not encoded, unless that cut is the end of the text.
    """
    starts = [0, *cuts[:-1]]
    pieces = encode([text[start : cut + WINDOW] for start, cut in zip(starts, cuts, strict=False)])
    tails = [*encode([text[cut : cut + WINDOW] for cut in cuts if cut < len(text)]), []]  # nothing is behind the end
    accepted = 0
    for start, cut, ids, tail in zip(starts, cuts, pieces, tails, strict=False):
        if start != accepted:  # the cut there was refused: this piece is a part of a longer one
            [ids] = encode([text[accepted : cut + WINDOW]])
        own = len(ids) - len(tail)
        if ids[own:] == tail:
            yield cut, ids[:own]
            accepted = cut


def _find_cuts(text: str, end: int, encode: Encoder) -> list[int]:
    """Places before `end`, at least a piece apart, at which the text can probably be cut."""
    cuts, start = [], PIECE
    while start < end:
        cut = _find_cut(text, start, min(start + PIECE, end), encode)
        if cut is not None:
            cuts.append(cut)
        start = PIECE + (start if cut is None else cut)
    return cuts


def _find_cut(text: str, start: int, end: int, encode: Encoder) -> int | None:
    """The first proposed place whose surroundings have the same ids as one text and as two; None without one."""
    places = _propose(text, start, end)
    count = 1  # the first is right in nearly every text
    while some := list(islice(places, count)):
        lefts = [text[max(0, place - WINDOW) : place] for place in some]
        rights = [text[place : place + WINDOW] for place in some]
        ids = encode([*lefts, *rights, *(left + right for left, right in zip(lefts, rights, strict=True))])
        for i, place in enumerate(some):
            if ids[i] + ids[i + len(some)] == ids[i + 2 * len(some)]:
                return place
        count = 8
    return None


def _propose(text: str, start: int, end: int) -> Iterator[int]:
    """Places in text[start:end] at which a word may begin, the likeliest first: a blank between two words."""
    between = BLANK.search(text, start, min(start + WINDOW, end))
    if between:
        yield between.start()
    for found in islice(CHANGE.finditer(text, start, end), TRIES):
        if found.start() < end:  # at `end` the pattern sees a border, since it does not see what follows
            yield found.start()
