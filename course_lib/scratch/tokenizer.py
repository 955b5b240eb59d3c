"""Byte-level byte-pair encoding of text (Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019).

Text is cut into words by a pattern, a word is its UTF-8 bytes, and the most frequent pair of neighbours is merged into
a new token, again and again (`bpe`). 256 bytes cover any text, so there is no unknown token, and decoding gives back
every byte.

Left out: normalisation and training on several processes. Checked against the `tokenizers` library, given the same
merges, in tests/scratch/test_tokenizer.py.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from itertools import chain
from operator import index
from pathlib import Path

from course_lib.files import write_whole
from course_lib.scratch.bpe import BYTE_COUNT, Pair, learn_merges, merge_word, reachable_ids
from course_lib.scratch.words import UTF8_LOSSLESS, split_text

CACHED_WORDS = 1 << 16  # words whose ids are remembered, of at most
CACHED_LENGTH = 64  # characters each; together some 20 MB


class BPETokenizer:
    """Ids 0 to 255 are the bytes, the next ones the merges in the order they were learnt, then the special tokens.

    Args:
        merges: pairs of ids, in the order in which they were learnt.
        special_tokens: texts that become one id each and are never merged with their neighbours.
        numbering: the ids of a published vocabulary, which are in another order: numbering[our id] is the published
            one. They may have gaps.

    Raises:
        ValueError: a merge needs an id that does not exist before it, or is listed twice; a special token is empty,
            is listed twice or is not text; the numbering does not give every id a number of its own.

    Example:
        >>> tokenizer = BPETokenizer.train("the cat, the hat, the mat", vocab_size=260)
        >>> ids = tokenizer.encode("the rat")
        >>> tokenizer.decode(ids), len(ids) < len("the rat")
        ('the rat', True)
    """

    def __init__(
        self,
        merges: Sequence[Pair] = (),
        special_tokens: Sequence[str] = (),
        numbering: list[int] | None = None,
    ):
        self.merges = _checked_merges(merges)
        self.special_tokens = _checked_special_tokens(special_tokens)
        pieces = [bytes([i]) for i in range(BYTE_COUNT)]
        for left, right in self.merges:
            pieces.append(pieces[left] + pieces[right])
        first_special = len(pieces)
        pieces += [text.encode() for text in self.special_tokens]
        self.numbering = None if numbering is None else _checked_numbering(numbering, len(pieces))

        ids = self.numbering or range(len(pieces))
        self._piece_of = dict(zip(ids, pieces, strict=True))  # id -> bytes
        self._special_ids = dict(zip(self.special_tokens, ids[first_special:], strict=True))
        self._vocab_size = max(ids) + 1
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._whole_words = {pieces[i]: ids[i] for i in reachable_ids(self.merges, self._ranks)}  # bytes -> id
        self._ids_of = _WordCache(self._encode_word)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id: as many rows an embedding needs."""
        return self._vocab_size

    @classmethod
    def train(cls, text: str, vocab_size: int, special_tokens: Sequence[str] = ()) -> "BPETokenizer":
        """Learn merges until there are `vocab_size` ids, or no pair occurs twice.

        Of two pairs that are equally frequent the one with the smaller ids is merged first.

        Args:
            text: what to learn from.
            vocab_size: bytes, merges and special tokens together.
            special_tokens: texts that become one id each. Where they stand in `text` nothing is learnt across them.

        Returns:
            The trained tokenizer.

        Raises:
            ValueError: `vocab_size` has no room for the bytes and the special tokens.
        """
        count = vocab_size - BYTE_COUNT - len(special_tokens)
        if count < 0:
            raise ValueError(
                f"vocab_size {vocab_size} is below 256 bytes and {len(special_tokens)} special tokens: "
                f"it must be at least {BYTE_COUNT + len(special_tokens)}."
            )
        frequencies: Counter[str] = Counter()  # how often each different word occurs
        for words, _ in split_text([text], frozenset(special_tokens)):
            frequencies.update(words)
        as_bytes = {word.encode(**UTF8_LOSSLESS): often for word, often in frequencies.items()}
        merges = learn_merges(as_bytes, count)
        return cls(merges, special_tokens)

    @classmethod
    def from_gpt2(cls, vocab: Path | str, merges: Path | str) -> "BPETokenizer":
        """The tokenizer of a GPT-2 style pair of files, with their ids. Text is cut into words by GPT-2's pattern.

        These files write each byte as one printable letter. Tokens that no merge makes are special tokens.

        Args:
            vocab: the path of vocab.json, {token: id}.
            merges: the path of merges.txt, one pair of tokens per line.

        Returns:
            The tokenizer.

        Raises:
            ValueError: a file is damaged, or the two do not belong together.
        """
        ids = json.loads(Path(vocab).read_text(encoding="utf-8"))
        pairs = _read_pairs(Path(merges))
        tokens = [*byte_letters(), *(left + right for left, right in pairs)]  # by our id
        our_id = {token: i for i, token in enumerate(tokens)}
        if len(our_id) < len(tokens):
            [(token, _)] = Counter(tokens).most_common(1)  # the token that occurs twice
            raise ValueError(f"{merges} makes the token {token!r} in two ways: only files with one way are understood.")
        special = [token for token in ids if token not in our_id]
        try:
            numbering = [ids[token] for token in tokens + special]
            return cls([(our_id[left], our_id[right]) for left, right in pairs], special, numbering)
        except KeyError as error:
            raise ValueError(f"{vocab} and {merges} do not belong together: {error} is only in one of them.") from error

    # --- text to ids ---

    def encode(
        self,
        text: str | bytes,
        allowed_special: str | Set[str] = "all",
        disallowed_special: str | Collection[str] = (),
    ) -> list[int]:
        """The ids of `text`. `decode` gives the text back, and `decode_bytes` the bytes, which need not be UTF-8.

        The two options are those of OpenAI's tiktoken, and only their defaults differ: there, the text of a special
        token is an error unless it is allowed.

        Args:
            text: a text, or bytes. Half a surrogate pair, which stands for no character, becomes U+FFFD.
            allowed_special: the special tokens to recognise: "all", or a set of them. Any other one is ordinary text;
                an empty set is for text of strangers, who must not be able to end a turn by writing ``<|im_end|>``.
            disallowed_special: texts that must not occur: "all" (the special tokens that are not allowed), or a set.

        Returns:
            The ids.

        Raises:
            ValueError: a disallowed text occurs, or an allowed token is unknown.
        """
        whole = text.decode(**UTF8_LOSSLESS) if isinstance(text, bytes) else text
        ids: list[int] = []
        for some in self._encode([whole], allowed_special, disallowed_special):
            ids.extend(some)
        return ids

    def encode_iterable(
        self,
        texts: Iterable[str],
        allowed_special: str | Set[str] = "all",
        disallowed_special: str | Collection[str] = (),
    ) -> Iterator[int]:
        """The ids of "".join(texts), one by one: an open file of any size is encoded in little memory.

        Where one text ends and the next one begins makes no difference: a word may lie across that place.

        Args:
            texts: parts of one text, in order; a file gives its lines.
            allowed_special: the special tokens to recognise, as in `encode`.
            disallowed_special: texts that must not occur, as in `encode`.

        Returns:
            An iterator over the ids.

        Raises:
            ValueError: a disallowed text occurs (said when it is reached), or an allowed token is unknown.
        """
        return chain.from_iterable(self._encode(texts, allowed_special, disallowed_special))

    def _encode(
        self, texts: Iterable[str], allowed_special: str | Set[str], disallowed_special: str | Collection[str]
    ) -> Iterator[Iterable[int]]:
        """The ids of the joined texts, some thousand at a time."""
        allowed, disallowed = self._special_options(allowed_special, disallowed_special)
        for words, special in split_text(texts, allowed, disallowed):
            # As (id for word in words for id in self._ids_of[word]), without a step of Python for each id.
            yield chain.from_iterable(map(self._ids_of.__getitem__, words))
            if special is not None:
                yield [self._special_ids[special]]

    def _encode_word(self, word: str) -> tuple[int, ...]:
        """The ids of one word. A word that is a token of its own needs no merging."""
        data = word.encode(**UTF8_LOSSLESS)
        if data in self._whole_words:
            return (self._whole_words[data],)
        ids = merge_word(data, self._ranks)
        return tuple(ids if self.numbering is None else [self.numbering[i] for i in ids])

    def _special_options(
        self, allowed_special: str | Set[str], disallowed_special: str | Collection[str]
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Both options as sets. ValueError where one is neither "all" nor a collection, or a token is unknown."""
        known = frozenset(self._special_ids)
        for name, value in (("allowed_special", allowed_special), ("disallowed_special", disallowed_special)):
            if isinstance(value, str) and value != "all":
                raise ValueError(f'{name} is the text {value!r}: give "all" or a set of texts.')
        allowed = known if allowed_special == "all" else frozenset(allowed_special)
        if not allowed <= known:
            raise ValueError(
                f"allowed_special has {min(allowed - known)!r}, which is not a special token of this tokenizer. "
                f"It has: {', '.join(map(repr, self.special_tokens)) or 'none'}."
            )
        return allowed, known - allowed if disallowed_special == "all" else frozenset(disallowed_special)

    def __call__(self, text: str) -> dict[str, list[int]]:
        """As transformers' tokenizers are called: {"input_ids": [...]}."""
        return {"input_ids": self.encode(text)}

    # --- ids to text ---

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 (a cut character) become the replacement character."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of `ids`. ValueError where an id is outside the vocabulary."""
        try:
            return b"".join([self._piece_of[i] for i in ids])
        except KeyError as error:
            raise ValueError(f"The id {error.args[0]} is outside the vocabulary of {self.vocab_size}.") from None

    # --- on disk ---

    def save(self, path: Path | str) -> None:
        """Write the tokenizer as JSON, whole or not at all."""
        saved = {"merges": self.merges, "special_tokens": self.special_tokens, "numbering": self.numbering}
        write_whole(Path(path), json.dumps(saved))

    @classmethod
    def load(cls, path: Path | str) -> "BPETokenizer":
        """Read what `save` wrote. ValueError where the file holds something else."""
        try:
            saved = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(saved["merges"], saved["special_tokens"], saved.get("numbering"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a saved BPETokenizer ({error}).") from error


class _WordCache(dict[str, tuple[int, ...]]):
    """The ids of a word, encoded when it is first asked for and remembered: most words of a text are repetitions.

    Long words are seldom repeated and are not kept. A full cache is emptied, since the frequent words are soon back.
    """

    def __init__(self, encode_word: Callable[[str], tuple[int, ...]]):
        super().__init__()
        self.encode_word = encode_word

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = self.encode_word(word)
        if len(word) <= CACHED_LENGTH:
            if len(self) >= CACHED_WORDS:
                self.clear()
            self[word] = ids
        return ids


def byte_letters() -> list[str]:
    """GPT-2's printable letter for each byte from 0 to 255: its own where it is printable, else one from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    """The pairs of a merges.txt, whose first line may be "#version: ..."."""
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise ValueError(f"{path}, line {number}: {line!r} is not two tokens with a blank between them.")
        pairs.append((parts[0], parts[1]))
    return pairs


# --- what a tokenizer can be made of ---


def _checked_merges(merges: Sequence[Pair]) -> list[Pair]:
    """ValueError for a merge that could never happen, or that would happen twice."""
    checked: dict[Pair, None] = {}
    for merge in merges:
        known = BYTE_COUNT + len(checked)
        try:
            left, right = map(index, merge)
        except (TypeError, ValueError):
            raise ValueError(f"The merge {merge!r} is not a pair of ids.") from None
        if not (0 <= left < known and 0 <= right < known):
            raise ValueError(f"The merge {left, right} needs an id that does not exist yet (only 0 to {known - 1} do).")
        if (left, right) in checked:
            raise ValueError(f"The merge {left, right} is listed twice: the second could never happen.")
        checked[left, right] = None
    return list(checked)


def _checked_special_tokens(special_tokens: Sequence[str]) -> list[str]:
    """ValueError unless each is a text of its own that UTF-8 can write."""
    tokens = list(special_tokens)
    for token in tokens:
        if not isinstance(token, str) or not token or tokens.count(token) > 1:
            raise ValueError(f"special_tokens {tokens}: each must be a text of its own, and {token!r} is not.")
        try:
            token.encode()
        except UnicodeEncodeError:
            raise ValueError(f"The special token {token!r} has half a surrogate pair, which is not text.") from None
    return tokens


def _checked_numbering(numbering: Sequence[int], count: int) -> list[int]:
    """ValueError unless it has `count` different ids of at least 0."""
    try:
        ids = [index(i) for i in numbering]
    except TypeError as error:
        raise ValueError(f"numbering must be a list of whole numbers ({error}).") from None
    if len(ids) != count:
        raise ValueError(f"numbering has {len(ids)} ids, and there are {count} bytes, merges and special tokens.")
    if min(ids) < 0:
        raise ValueError(f"numbering has the id {min(ids)}: ids are at least 0.")
    if len(set(ids)) < count:
        [(twice, _)] = Counter(ids).most_common(1)  # the id that occurs twice
        raise ValueError(f"numbering gives the id {twice} to two tokens: each needs one of its own.")
    return ids
