"""Merges: the same as replaying them one after the other, in operations that grow with a word's length."""

import math
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from course_lib.data import style_corpus
from course_lib.scratch.bpe import BYTE_COUNT, LONG_WORD, learn_merges, merge_long_word, merge_pair, merge_word

WORDS = Counter(word.encode() for word in style_corpus().split())
# The second list doubles: aa, then aaaa, ..., as in rows of one sign. The third has a merge that never happens.
LISTS = [learn_merges(WORDS, 300), [(97, 97), *((n, n) for n in range(256, 263))], [(98, 99), (97, 98), (257, 99)]]


def ranks_of(merges, rank=int):
    return {pair: rank(number) for number, pair in enumerate(merges)}


def replayed(word, merges):
    """The definition: each merge in turn, over the whole word."""
    ids = list(word)
    for new_id, pair in enumerate(merges, start=BYTE_COUNT):
        ids = merge_pair(ids, pair, new_id)
    return ids


def test_merging_by_hand():
    """Learnt: ab, then (ab)c, then bc. In "abcbc" ab comes first, so that bc is left for the second one only."""
    ranks = ranks_of([(97, 98), (256, 99), (98, 99)])
    assert merge_word(b"abcbc", ranks) == merge_long_word(b"abcbc", ranks) == [257, 258]
    assert merge_pair([7, 7, 7], (7, 7), 8) == [8, 7]


@pytest.mark.parametrize("merges", LISTS, ids=["learnt", "doubling", "never"])
@settings(max_examples=100, deadline=None)
@given(word=st.text(st.sampled_from("abcdethr"), max_size=3 * LONG_WORD).map(str.encode))
@example(word=b"")
@example(word=b"a" * LONG_WORD)
@example(word=b"a" * (LONG_WORD + 1))
def test_both_ways_to_merge_are_the_definition(merges, word):
    ranks = ranks_of(merges)
    assert merge_word(word, ranks) == merge_long_word(word, ranks) == replayed(word, merges)


class Counted(int):
    """A rank that counts how often it is compared: looking for the lowest one is what costs time in long words."""

    comparisons, most = 0, math.inf

    def _count(name):
        compare = getattr(int, name)

        def counting(self, other):
            Counted.comparisons += 1
            assert Counted.comparisons <= Counted.most, "more comparisons of ranks than n log2(n) explains"
            return compare(self, other)

        return counting

    __lt__, __gt__, __le__, __ge__ = map(_count, ("__lt__", "__gt__", "__le__", "__ge__"))
    __eq__, __ne__ = map(_count, ("__eq__", "__ne__"))
    __hash__ = int.__hash__


class Ranks(dict):
    """Ranks that count how often they are asked for."""

    lookups = 0

    def get(self, pair, default=None):
        self.lookups += 1
        return super().get(pair, default)


def operations(word, merges, monkeypatch, most=math.inf):
    """Comparisons of ranks and lookups of pairs that encoding a word takes; a failure at once where there are more."""
    monkeypatch.setattr(Counted, "comparisons", 0)
    monkeypatch.setattr(Counted, "most", most)
    ranks = Ranks(ranks_of(merges, Counted))
    merge_word(word, ranks)
    return Counted.comparisons + ranks.lookups


SPELLINGS = {"learnt": b"thetheather", "doubling": b"a", "never": b"abcbcab"}


@pytest.mark.parametrize(("merges", "spelling"), list(zip(LISTS, SPELLINGS.values(), strict=True)), ids=SPELLINGS)
def test_a_word_of_32_000_letters_takes_no_quadratic_number_of_operations(merges, spelling, monkeypatch):
    """About n log2(n) of them. The direct way takes n * n / 4 or so: 256 million, and four times as many for 2n."""
    n, most = 16_000, 6 * 32_000 * math.log2(32_000)
    short, long = (operations((spelling * size)[:size], merges, monkeypatch, most) for size in (n, 2 * n))
    assert n < short < long < most
    assert long / short < 2.3


def test_the_count_sees_a_quadratic_way(monkeypatch):
    """The bound above has teeth: the direct way exceeds it."""
    monkeypatch.setattr("course_lib.scratch.bpe.LONG_WORD", 1 << 30)
    short, long = (operations(b"a" * size, LISTS[1], monkeypatch) for size in (500, 1000))
    assert long / short > 3
    assert long > 6 * 1000 * math.log2(1000)
