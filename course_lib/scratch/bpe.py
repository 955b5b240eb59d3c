"""Byte-pair encoding on lists of ids: learning merges, and replaying them on a word (Sennrich et al. 2016).

A word starts as its bytes, the ids 0 to 255. A merge joins two neighbours into one new id: the first merge that is
learnt makes 256, the next one 257, and so on. How text becomes words, and ids become text, is in `tokenizer`.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias

Pair: TypeAlias = tuple[int, int]

BYTE_COUNT = 256  # ids 0 to 255 are the bytes, so the merge of rank r makes the id 256 + r
LONG_WORD = 100  # bytes: up to here the direct way is faster than the heap
NOT_LEARNT = 1 << 62  # a rank behind all others


def merge_pair(ids: Sequence[int], pair: Pair, new_id: int) -> list[int]:
    """Replace every occurrence of a pair, from the left: (7, 7, 7) with the pair (7, 7) becomes (new_id, 7).

    Args:
        ids: the word as it is so far.
        pair: two ids that stand beside each other.
        new_id: what takes their place.

    Returns:
        The shorter word.
    """
    merged, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


# --- encoding: replay the merges ---


def merge_word(word: bytes, ranks: Mapping[Pair, int]) -> list[int]:
    """Encode one word: among its pairs of neighbours merge the one that was learnt first, until none was learnt.

    Args:
        word: the bytes of one word.
        ranks: for each pair that was learnt, how many were learnt before it.

    Returns:
        The ids of the word.
    """
    if len(word) > LONG_WORD:
        return merge_long_word(word, ranks)
    ids = list(word)
    pair_ranks = [ranks.get(pair, NOT_LEARNT) for pair in pairwise(ids)]  # one for each id but the last
    while pair_ranks:
        rank = min(pair_ranks)
        if rank == NOT_LEARNT:
            break
        i = pair_ranks.index(rank)  # the leftmost, so that (7, 7, 7) becomes (new, 7)
        ids[i : i + 2] = [BYTE_COUNT + rank]
        # The pair is gone, and its neighbours on both sides are now pairs with the new id.
        del pair_ranks[i]
        if i < len(pair_ranks):
            pair_ranks[i] = ranks.get((ids[i], ids[i + 1]), NOT_LEARNT)
        if i > 0:
            pair_ranks[i - 1] = ranks.get((ids[i - 1], ids[i]), NOT_LEARNT)
    return ids


def merge_long_word(word: bytes, ranks: Mapping[Pair, int]) -> list[int]:
    """`merge_word` in n * log(n) operations for n bytes, where looking at all pairs before each merge takes n * n.

    The pairs wait in a heap, the one that was learnt first on top. Merged ids are not moved together: each position
    knows where its neighbours are, so a merge touches three positions however long the word is.

    Args:
        word: the bytes of one word.
        ranks: for each pair that was learnt, how many were learnt before it.

    Returns:
        The ids of the word.
    """
    # A None behind the last id stands for "no neighbour". Position -1, to the left of the first id, is that None too.
    ids: list[int | None] = [*word, None]
    after = [*range(1, len(ids)), len(word)]  # where the right neighbour of each position is
    before = [*range(-1, len(word))]  # where its left neighbour is
    heap = [(ranks[pair], left) for left, pair in enumerate(pairwise(word)) if pair in ranks]
    heapq.heapify(heap)

    def rank_at(left: int) -> int | None:
        """The rank of the pair that begins at `left`; None where it was not learnt or where its id is gone."""
        return ranks.get((ids[left], ids[after[left]]))  # type: ignore[arg-type]

    while heap:
        rank, left = heapq.heappop(heap)  # of equal ranks the leftmost comes first
        if rank_at(left) != rank:
            continue  # one of the two has been merged with its other neighbour since
        right = after[left]
        ids[left], ids[right] = BYTE_COUNT + rank, None
        after[left] = after[right]
        before[after[right]] = left
        # Older merges know only older ids, so neither pair with the new id can come before the rank just merged.
        for start in (before[left], left):
            new_rank = rank_at(start)
            if new_rank is not None:
                heapq.heappush(heap, (new_rank, start))
    return [i for i in ids if i is not None]


def reachable_ids(merges: Sequence[Pair], ranks: Mapping[Pair, int]) -> set[int]:
    """The ids that their own bytes are merged into. A word of just these bytes needs no merging: it is that id.

    Among merges that were learnt from text these are all ids. In another list a pair may come in between: with the
    merges bc, ab and (ab, c), the word "abc" becomes a and bc, and never the id of the last merge.

    Args:
        merges: the merges, in the order in which they were learnt.
        ranks: for each merge, its place in that list.

    Returns:
        The ids, the bytes included.
    """
    reachable = set(range(BYTE_COUNT))
    for new_id, (left, right) in enumerate(merges, start=BYTE_COUNT):
        if left in reachable and right in reachable and not _joined_before(left, right, merges, ranks):
            reachable.add(new_id)
    return reachable


def _joined_before(left: int, right: int, merges: Sequence[Pair], ranks: Mapping[Pair, int]) -> bool:
    """Whether something is merged across the border of two neighbours before both of them are complete.

    It undoes their merges one by one, the latest first. After each, `left` and `right` are the ids that stood at the
    border before that merge. If their pair has a lower rank than the merge, it would have come first.
    """
    while left >= BYTE_COUNT or right >= BYTE_COUNT:
        rank = max(left, right) - BYTE_COUNT
        if left > right:
            left = merges[rank][1]
            if ranks.get((left, right), NOT_LEARNT) < rank:
                return True
        else:
            right = merges[rank][0]
            # The same pair on the border and to the right of it: the leftmost is merged first.
            if ranks.get((left, right), NOT_LEARNT) <= rank:
                return True
    return False


# --- training: find the merges ---


def learn_merges(words: Mapping[bytes, int], count: int) -> list[Pair]:
    """Merge the most frequent pair of neighbours, again and again; of equally frequent pairs the one of smaller ids.

    Counting all pairs anew for each merge would be simpler and slow. Instead each pair knows the words that it occurs
    in, so that a merge visits only those, and a heap has the most frequent pair on top.

    Args:
        words: each different word, and how often it occurs.
        count: how many merges to learn. There are fewer where no pair occurs twice.

    Returns:
        The merges, in the order in which they were learnt.
    """
    spellings = [list(word) for word in words]  # the ids of each word, as merged so far
    frequencies = list(words.values())
    pair_counts: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)  # the numbers of the words that a pair occurs in
    for number, ids in enumerate(spellings):
        for pair in pairwise(ids):
            pair_counts[pair] += frequencies[number]
            places[pair].add(number)
    heap = [(-often, pair) for pair, often in pair_counts.items()]  # the smallest entry: most frequent, then ids
    heapq.heapify(heap)

    merges: list[Pair] = []
    while len(merges) < count and heap:
        often, pair = heapq.heappop(heap)
        if -often != pair_counts[pair]:
            continue  # an outdated entry: the pair's count has changed, and the heap has a newer one
        if -often < 2:
            break
        new_id = BYTE_COUNT + len(merges)
        changed: set[Pair] = set()
        for number in places.pop(pair):
            merged = merge_pair(spellings[number], pair, new_id)
            changed |= _recount(spellings[number], merged, frequencies[number], pair_counts)
            for fresh in pairwise(merged):
                places[fresh].add(number)
            spellings[number] = merged
        del pair_counts[pair]
        for other in changed - {pair}:
            heapq.heappush(heap, (-pair_counts[other], other))
        merges.append(pair)
    return merges


def _recount(old: Iterable[int], new: Iterable[int], frequency: int, pair_counts: Counter[Pair]) -> set[Pair]:
    """Take a word's old pairs out of the counts and put its new ones in. Returns both kinds of pairs."""
    removed, added = list(pairwise(old)), list(pairwise(new))
    for pair in removed:
        pair_counts[pair] -= frequency
    for pair in added:
        pair_counts[pair] += frequency
    return {*removed, *added}
