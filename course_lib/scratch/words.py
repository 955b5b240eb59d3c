"""Text to words, as GPT-2 cuts it, in windows: a text of any size needs the memory of one window.

Byte-pair encoding merges within a word and never across two. So the words are found first, by a pattern, and special
tokens before them. The parts of a text may come one after another, and how it was divided makes no difference.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import Any


def word_pattern(letters: str, digits: str) -> str:
    """GPT-2's pattern. Each alternative is tried where the last word ended, and the first that fits is the next word.

    Args:
        letters: what counts as a letter, written for the inside of a regular expression's brackets.
        digits: what counts as a digit.

    Returns:
        The regular expression.
    """
    return "|".join(
        (
            r"'(?:[sdmt]|ll|ve|re)",  # the end of a contraction: the 's of "it's"
            rf" ?[{letters}]+",  # letters, with the blank before them
            rf" ?[{digits}]+",  # digits
            rf" ?[^\s{letters}{digits}]+",  # punctuation and other signs
            r"\s+(?!\S)",  # white space, except its last character, which belongs to what follows
            r"\s+",
        )
    )


PATTERN = word_pattern(letters=r"\p{L}", digits=r"\p{N}")
# A word is final once this many characters behind it are known: "'l" may become "'ll", which takes two.
LOOK_AHEAD = 2
WINDOW = 1 << 13  # characters: few enough for the words of a window to stay in the processor's cache
# For str.encode and bytes.decode: a text carries a byte that is not UTF-8 as one of U+DC80 to U+DCFF, and returns it.
UTF8_LOSSLESS = {"encoding": "utf-8", "errors": "surrogateescape"}


def split_text(
    texts: Iterable[str], special_tokens: frozenset[str] = frozenset(), forbidden: frozenset[str] = frozenset()
) -> Iterator[tuple[list[str], str | None]]:
    """Cut "".join(texts) into words and special tokens.

    Args:
        texts: parts of one text, in order.
        special_tokens: these are cut out first; of two that begin at one place the longer is taken.
        forbidden: texts that must not occur.

    Returns:
        An iterator over pairs: some words, and the special token that follows them, or None where a window ends.

    Raises:
        ValueError: a forbidden text occurs. This is said when its window is reached.
    """
    special, refused = _any_of(special_tokens), _any_of(forbidden)
    longest = max(map(len, special_tokens | forbidden), default=1)
    text, enough = "", 0  # what is not decided yet, and how long it must become before another look is worth it
    for window in chain(_windows(mended(texts)), [None]):  # None: that was all
        text += window or ""
        if window is not None and len(text) < enough:
            continue
        if refused and (found := refused.search(text)):
            raise ValueError(
                f"The text has {found[0]!r}, which is disallowed: leave it out, or encode it as a special token "
                "(allowed_special) or as ordinary text (disallowed_special=())."
            )
        # A special token that begins behind `end` may be incomplete, or the beginning of a longer one.
        start, end = 0, len(text) if window is None else max(0, len(text) - longest + 1)
        for found in special.finditer(text) if special else ():
            if found.start() >= end:
                break
            yield _find_words(text, start, found.start()), found[0]
            start = found.end()
        end = max(start, end)
        words = _find_words(text, start, end)
        if window is not None:
            end -= _drop_undecided(words)
        yield words, None
        text = text[end:]
        enough = 2 * len(text)  # so that a word of many windows is looked at in time n and not n * n


def _drop_undecided(words: list[str]) -> int:
    """Take the last words away until `LOOK_AHEAD` characters are gone. Returns how many characters that were."""
    dropped = 0
    while words and dropped < LOOK_AHEAD:
        dropped += len(words.pop())
    return dropped


def _windows(texts: Iterable[str]) -> Iterator[str]:
    """The joined texts in parts of at most `WINDOW` characters; short ones, such as lines, are put together."""
    window, length = [], 0
    for text in texts:
        for start in range(0, len(text), WINDOW):
            part = text[start : start + WINDOW]
            window.append(part)
            length += len(part)
            if length >= WINDOW:
                yield "".join(window)
                window, length = [], 0
    yield "".join(window)


def mended(texts: Iterable[str]) -> Iterator[str]:
    """The texts without surrogates that have no place in UTF-8, as tiktoken mends them.

    A character beyond U+FFFF is written as two surrogates in JavaScript, Java and some JSON files. Two that belong
    together become their character, and half a pair becomes U+FFFD. U+DC80 to U+DCFF outside a pair stay: with them
    Python carries the bytes of a text that is not UTF-8, and they are encoded as those bytes.
    """
    half = ""
    for text in texts:
        text = half + text
        half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""  # its other half may be in the next text
        yield _mend(text[: len(text) - len(half)])
    yield _mend(half)


def _mend(text: str) -> str:
    """One text without misplaced surrogates. Nearly every text is sound, and then encoding it is the whole cost."""
    try:
        text.encode(**UTF8_LOSSLESS)
    except UnicodeEncodeError:
        joined = re.sub("[\ud800-\udbff][\udc00-\udfff]", _join_surrogates, text)
        return re.sub("[\ud800-\udbff\udc00-\udc7f\udd00-\udfff]", "\ufffd", joined)
    return text


def _join_surrogates(pair: re.Match[str]) -> str:
    """The one character beyond U+FFFF that two surrogates stand for."""
    return pair[0].encode("utf-16", "surrogatepass").decode("utf-16")


def _find_words(text: str, start: int, end: int) -> list[str]:
    """The words of text[start:end].

    The standard library's `re` is twice as fast as `regex`, and finds the same words in ASCII, which is most of an
    English text.
    """
    pattern = _ascii_pattern() if text.isascii() else _unicode_pattern()
    return pattern.findall(text, start, end)


@lru_cache(maxsize=1)
def _ascii_pattern() -> re.Pattern[str]:
    return re.compile(word_pattern(letters="A-Za-z", digits="0-9"), re.ASCII)


@lru_cache(maxsize=1)
def _unicode_pattern() -> Any:
    import regex  # which knows \p{L}, as `re` does not; imported when it is needed

    return regex.compile(PATTERN)


@lru_cache(maxsize=32)
def _any_of(tokens: frozenset[str]) -> re.Pattern[str] | None:
    """A pattern that finds any of `tokens`, and the longest where one begins with another; None without tokens."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if tokens else None
