"""Byte-level byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019).

Text is cut into words by a pattern, a word is its UTF-8 bytes, and the most frequent neighbouring pair is merged into a
new token, again and again. 256 bytes cover any text, so there is no unknown token and decoding gives back every byte.

Left out: normalisation and training on several processes. Checked against the `tokenizers` library, given the same
merges, in tests/scratch/test_tokenizer.py.
"""

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from course_lib.files import write_whole

# GPT-2's: contractions, words, numbers and punctuation with the space before them, then white space.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

BYTES = ("utf-8", "surrogateescape")  # Python's way to carry bytes that are no UTF-8 in a string


class BPETokenizer:
    """Ids 0 to 255 are the bytes, the next ones the merges in the order they were learnt, then the special tokens.

    merges: pairs of ids, in order. special_tokens: texts that become one id each and are never merged with neighbours.
    numbering: another order of the ids, as a published vocabulary has: numbering[our id] is the published one.
    """

    def __init__(
        self,
        merges: Sequence[tuple[int, int]] = (),
        special_tokens: Sequence[str] = (),
        numbering: list[int] | None = None,
    ):
        self.merges = [tuple(pair) for pair in merges]
        self.special_tokens = list(special_tokens)
        self.numbering = list(numbering) if numbering else None
        self._ours = {theirs: ours for ours, theirs in enumerate(numbering or [])}
        if not all(self.special_tokens) or len(set(self.special_tokens)) < len(self.special_tokens):
            raise ValueError(f"special_tokens {self.special_tokens}: each a text of its own.")
        self._rank = {pair: rank for rank, pair in enumerate(self.merges)}
        self._bytes = [bytes([i]) for i in range(256)]
        for left, right in self.merges:
            if not 0 <= max(left, right) < len(self._bytes):
                raise ValueError(
                    f"The merge {left, right} needs an id that does not exist yet ({len(self._bytes)} do)."
                )
            self._bytes.append(self._bytes[left] + self._bytes[right])
        self._special = {text: len(self._bytes) + i for i, text in enumerate(self.special_tokens)}
        self._cache: dict[bytes, list[int]] = {}

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return len(self._bytes) + len(self.special_tokens)

    @classmethod
    def train(cls, text: str, vocab_size: int, special_tokens: Sequence[str] = ()) -> "BPETokenizer":
        """Learn merges from `text` until there are `vocab_size` ids, or no pair occurs twice.

        Of two pairs that are equally frequent the one with the smaller ids is merged first.
        """
        count = vocab_size - 256 - len(special_tokens)
        if count < 0:
            raise ValueError(f"vocab_size {vocab_size} is below 256 bytes and {len(special_tokens)} special tokens.")
        words = Counter(word.encode() for word in _split(_outside(text, special_tokens)))
        return cls(_learn(words, count), special_tokens)

    @classmethod
    def from_gpt2(cls, vocab: Path | str, merges: Path | str) -> "BPETokenizer":
        """The tokenizer of a GPT-2 style vocab.json (token -> id) and merges.txt (a pair a line), with their ids.

        These files write each byte as one printable letter. Tokens that no merge makes are special tokens.
        """
        ids = json.loads(Path(vocab).read_text(encoding="utf-8"))
        lines = Path(merges).read_text(encoding="utf-8").splitlines()
        pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        made = [*byte_letters(), *(left + right for left, right in pairs)]
        index = {token: i for i, token in enumerate(made)}
        special = [token for token in ids if token not in index]
        try:
            numbering = [ids[token] for token in made + special]
            return cls([(index[left], index[right]) for left, right in pairs], special, numbering)
        except KeyError as error:
            raise ValueError(f"{vocab} and {merges} do not belong together: {error} is only in one of them.") from error

    def encode(self, text: str | bytes) -> list[int]:
        """The ids of `text`; decode gives the text back, and decode_bytes the bytes, which need not be UTF-8."""
        ids = self._encode(text.decode(*BYTES) if isinstance(text, bytes) else text)
        return [self.numbering[i] for i in ids] if self.numbering else ids

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in _split_special(text, self.special_tokens):
            if part in self._special:
                ids.append(self._special[part])
            else:
                for word in _split([part]):
                    ids += self._encode_word(word.encode(*BYTES))
        return ids

    def __call__(self, text: str) -> dict[str, list[int]]:
        """As transformers' tokenizers are called: {"input_ids": [...]}."""
        return {"input_ids": self.encode(text)}

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are no UTF-8 (a cut character) become the replacement character."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of `ids`. ValueError where an id is outside the vocabulary."""
        pieces = []
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"The id {i} is outside the vocabulary of {self.vocab_size}.")
            i = self._ours[i] if self.numbering else int(i)  # NumPy's small integers would overflow below
            special = i - len(self._bytes)
            pieces.append(self._bytes[i] if special < 0 else self.special_tokens[special].encode())
        return b"".join(pieces)

    def _encode_word(self, word: bytes) -> list[int]:
        """Merge the word's pairs in the order in which they were learnt. Words repeat, so their ids are remembered."""
        if (known := self._cache.get(word)) is not None:
            return known
        ids = list(word)
        while len(ids) > 1:
            pair = min(zip(ids, ids[1:], strict=False), key=lambda p: self._rank.get(p, len(self.merges)))
            if pair not in self._rank:
                break
            ids = _merge(ids, pair, 256 + self._rank[pair])
        self._cache[word] = ids
        return ids

    def save(self, path: Path | str) -> None:
        """Write the tokenizer as JSON, whole or not at all."""
        saved = {"merges": self.merges, "special_tokens": self.special_tokens, "numbering": self.numbering}
        write_whole(Path(path), json.dumps(saved))

    @classmethod
    def load(cls, path: Path | str) -> "BPETokenizer":
        """Read what `save` wrote."""
        try:
            saved = json.loads(Path(path).read_text())
            return cls(saved["merges"], saved["special_tokens"], saved.get("numbering"))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{path} is no saved BPETokenizer ({error}).") from error


def byte_letters() -> list[str]:
    """GPT-2's printable letter for each byte from 0 to 255: its own where it is printable, else one from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _learn(words: Counter, count: int) -> list[tuple[int, int]]:
    """`count` merges over words (bytes -> how often).

    Each pair knows the words it occurs in, so a merge visits only those; the most frequent pair is found with a heap
    whose stale entries are recognised by their outdated count.
    """
    spelt = [(list(word), often) for word, often in words.items()]
    counts: Counter = Counter()
    places = defaultdict(set)
    for number, (ids, often) in enumerate(spelt):
        for pair in zip(ids, ids[1:], strict=False):
            counts[pair] += often
            places[pair].add(number)
    heap = [(-often, pair) for pair, often in counts.items()]
    heapq.heapify(heap)

    merges: list[tuple[int, int]] = []
    while len(merges) < count and heap:
        often, pair = heapq.heappop(heap)
        if -often != counts[pair]:
            continue  # the count changed since: a newer entry is in the heap
        if -often < 2:
            break
        for changed in _apply(spelt, places, counts, pair, 256 + len(merges)):
            heapq.heappush(heap, (-counts[changed], changed))
        merges.append(pair)
    return merges


def _apply(
    spelt: list[tuple[list[int], int]],
    places: dict[tuple[int, int], set[int]],
    counts: Counter,
    pair: tuple[int, int],
    new: int,
) -> set[tuple[int, int]]:
    """Merge `pair` in every word that has it; returns the pairs whose counts changed."""
    changed = set()
    for number in places.pop(pair):
        ids, often = spelt[number]
        merged = _merge(ids, pair, new)
        for old in zip(ids, ids[1:], strict=False):
            counts[old] -= often
            changed.add(old)
        for fresh in zip(merged, merged[1:], strict=False):
            counts[fresh] += often
            changed.add(fresh)
            places[fresh].add(number)
        spelt[number] = (merged, often)
    del counts[pair]
    changed.discard(pair)
    return changed


def _merge(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """`ids` with each `pair`, from the left, replaced by `new`."""
    out, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def _split(parts: list[str]) -> Iterator[str]:
    import regex  # knows \p{L}, which re does not

    for part in parts:
        yield from regex.findall(PATTERN, part)


def _split_special(text: str, special_tokens: Sequence[str]) -> list[str]:
    """`text` cut around the special tokens, the longest first where one begins another."""
    if not special_tokens:
        return [text]
    import regex

    longest_first = sorted(special_tokens, key=len, reverse=True)
    return [part for part in regex.split(f"({'|'.join(map(regex.escape, longest_first))})", text) if part]


def _outside(text: str, special_tokens: Sequence[str]) -> list[str]:
    return [part for part in _split_special(text, special_tokens) if part not in special_tokens]
