"""What `course train` trains on: a corpus, a text, token shards or records, as numbered micro-batches.

Left out: mixing several sources, and packing records into rows (chapter 01 has it).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from course_lib.data import encode_records, length_grouped, read_records, split_paragraphs, style_corpus
from course_lib.data.batching import Example, collate
from course_lib.data.corpora import NAMED, read_corpus
from course_lib.data.reading import ENDINGS
from course_lib.data.shards import TokenShards, encode_many
from course_lib.data.tokenizers import Tokenizer, has_chat_template
from course_lib.errors import CourseError
from course_lib.finetuning.settings import BUNDLED

HELD_OUT = 0.1  # of a source that has no part of its own for it
Rows: TypeAlias = np.ndarray | TokenShards | list[Example]


@dataclass(frozen=True)
class Source:
    """The rows to train on and those held out: token blocks (rows, seq_len), or examples of unequal lengths.

    what: in words, for the header. tokens: of the rows to train on.
    """

    what: str
    train: Rows
    held_out: Rows
    tokens: int
    pad_id: int = 0


class MicroBatches(Sequence):
    """Micro-batch i of `total`, made when it is asked for: the same for the same seed, whenever a run is resumed.

    Each pass goes through all rows in a new order that `seed` and the pass decide; its last batch may be smaller.
    Examples come in batches of similar lengths (see `length_grouped`), padded on the right.
    """

    def __init__(self, source: Source, batch_size: int, total: int, seed: int):
        self.source, self.batch_size, self.total, self.seed = source, batch_size, total, seed
        # Examples have a length each; blocks have one in common, and none is noted.
        examples = source.train if isinstance(source.train, list) else None
        self.lengths = None if examples is None else [len(example["input_ids"]) for example in examples]
        self.per_pass = math.ceil(len(source.train) / batch_size)
        self._known: tuple[int, list[np.ndarray]] = (-1, [])

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < self.total:
            raise IndexError(f"micro-batch {number} of {self.total}")
        return collate(self.source.train, self._rows(number), self.source.pad_id)

    def tokens(self, number: int) -> int:
        """Tokens of micro-batch `number` (of any number) that are no padding."""
        rows = self._rows(number)
        if self.lengths is not None:
            return sum(self.lengths[i] for i in rows)
        return len(rows) * len(self.source.train[0])

    def _rows(self, number: int) -> np.ndarray:
        turn, place = divmod(number, self.per_pass)
        if self._known[0] != turn:
            self._known = turn, self._order(turn)
        return self._known[1][place]

    def _order(self, turn: int) -> list[np.ndarray]:
        seed = int(np.random.SeedSequence([self.seed, turn]).generate_state(1)[0])
        if self.lengths is not None:
            return length_grouped(self.lengths, self.batch_size, seed)
        order = np.random.default_rng(seed).permutation(len(self.source.train))
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]


def read_source(
    name: str,
    tokenizer: Tokenizer,
    seq_len: int,
    *,
    max_train: int = 0,
    max_eval: int = 0,
    by_document: bool = False,
    template: str | None = None,
    train_on: str = "response",
) -> Source:
    """Read and tokenise `name`: "keepers_log" (in the package), "tinystories", "wikitext2", a text file, a folder of
    WikiText files or token shards, or a file or folder of records.

    max_train: at most so many documents of a named corpus or WikiText folder, records, or blocks of anything else;
    max_eval: at most so many held-out rows; 0: all. by_document: each document (a text's paragraph) is an example of
    its own length, cut to seq_len, rather than a part of blocks. template, train_on: of records, see `encode_record`.
    Raises CourseError where there is no such source, or too little of it.
    """
    path = Path(name).expanduser()
    if path.is_dir() and any(path.glob("train_*.npy")):
        return _shards(path, seq_len, max_train, max_eval)
    if path.name.endswith(ENDINGS) or (path.is_dir() and not any(path.glob("wiki.*.*"))):
        return _records(path, tokenizer, seq_len, max_train, max_eval, template, train_on)
    if path.is_dir() or (name in NAMED and not path.exists()):
        parts = read_corpus(name, "train", max_train or None), read_corpus(name, "validation", max_eval or None)
        limits = (0, max_eval)
    else:
        text = style_corpus() if name == BUNDLED and not path.exists() else read_corpus(name)[0]
        parts, limits = _split(text, by_document), (max_train, max_eval)
    held_out = _pieces(parts[1], tokenizer, seq_len)[: limits[1] or None]
    if by_document:
        examples = _documents(parts[0], tokenizer, seq_len)[: limits[0] or None]
        tokens = sum(len(example["input_ids"]) for example in examples)
        what = f"{len(examples):,} documents of up to {seq_len} tokens"
        return Source(what, examples, held_out, tokens, pad_id(tokenizer))
    blocks = _blocks(parts[0], tokenizer, seq_len)[: limits[0] or None]
    what = f"{len(blocks):,} blocks of {blocks.shape[1]} tokens"
    return Source(what, blocks, held_out, blocks.size, pad_id(tokenizer))


def pad_id(tokenizer: Tokenizer) -> int:
    """The id that fills batches up: masked, so that any would do."""
    known = (getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
    return next((token for token in known if token is not None), 0)


def _split(text: str, by_document: bool) -> tuple[list[str], list[str]]:
    """The last tenth held out: of the paragraphs where there are enough, else of the letters."""
    try:
        train, held_out = split_paragraphs(text, HELD_OUT)
    except CourseError:
        cut = int((1 - HELD_OUT) * len(text))
        return [text[:cut]], [text[cut:]]
    if by_document:
        return train.split("\n\n"), held_out.split("\n\n")
    return [train], [held_out]


def _blocks(documents: Iterable[str], tokenizer: Tokenizer, seq_len: int) -> np.ndarray:
    """All documents' tokens in a row, cut into int64 (blocks, seq_len); a tail that fills no block is left out."""
    ids = _joined(documents, tokenizer)
    size = min(seq_len, len(ids))
    return ids[: len(ids) // size * size].reshape(-1, size)


def _pieces(documents: Iterable[str], tokenizer: Tokenizer, seq_len: int) -> list[Example]:
    """The same as examples, the tail included: of a short text held out, every token counts."""
    ids = _joined(documents, tokenizer).tolist()
    cuts = (ids[start : start + seq_len] for start in range(0, len(ids) - 1, seq_len))
    return [{"input_ids": cut, "labels": cut} for cut in cuts]


def _joined(documents: Iterable[str], tokenizer: Tokenizer) -> np.ndarray:
    """All tokens, int64, with an end-of-text token between two documents where the tokenizer has one."""
    end = getattr(tokenizer, "eos_token_id", None)
    between = [] if end is None else [end]
    parts = [np.array(ids + between, dtype=np.int64) for ids in _encoded(documents, tokenizer)]
    ids = np.concatenate(parts)[: -len(between) or None] if parts else np.array([])
    if len(ids) < 2:
        raise CourseError(f"A part of this text has {len(ids)} tokens: at least 2 are needed, to predict one.")
    return ids


def _encoded(documents: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    documents = iter(documents)
    while some := list(islice(documents, 256)):
        yield from encode_many(tokenizer, some)


def _documents(documents: Iterable[str], tokenizer: Tokenizer, seq_len: int) -> list[Example]:
    cut = (ids[:seq_len] for ids in _encoded(documents, tokenizer))
    examples = [{"input_ids": ids, "labels": ids} for ids in cut if len(ids) > 1]
    if not examples:
        raise CourseError("A part of this text has no document of at least 2 tokens.")
    return examples


def _shards(folder: Path, seq_len: int, max_train: int, max_eval: int) -> Source:
    train, val = TokenShards(folder, "train", seq_len), TokenShards(folder, "val", 1)
    longest = max(map(len, val.arrays))
    held_out = TokenShards(folder, "val", min(seq_len, longest))
    count = min(len(train), max_train or len(train))
    what = f"{count:,} blocks of {seq_len} tokens from {len(train.arrays)} shards"
    kept = held_out[np.arange(min(len(held_out), max_eval or len(held_out)))]
    if count == len(train):
        return Source(what, train, kept, train.tokens)
    rows = train[np.arange(count)]
    return Source(what, rows, kept, rows.size)


def _records(
    path: Path,
    tokenizer: Tokenizer,
    seq_len: int,
    max_train: int,
    max_eval: int,
    template: str | None,
    train_on: str,
) -> Source:
    if not path.exists():
        raise CourseError(f"There is no file of records {path}.")
    if path.is_dir():  # its test part is not for training
        path = next((path / f"train{ending}" for ending in ENDINGS if (path / f"train{ending}").is_file()), path)
    reading = read_records(path, malformed="skip")
    records = reading.records
    if len(records) < 2:
        raise CourseError(f"{path} has {len(records)} record: two are needed, one of them to hold out.")
    template = template or ("chat" if has_chat_template(tokenizer) else "instruction")
    count = max(1, round(HELD_OUT * len(records)))
    parts = records[:-count][: max_train or None], records[-count:][: max_eval or None]
    options: dict[str, Any] = {"template": template, "train_on": train_on, "max_length": seq_len, "too_long": "skip"}
    train, held_out = (encode_records(part, tokenizer, **options) for part in parts)
    if not (train.examples and held_out.examples):
        raise CourseError(f"No record of {path} leaves a response within {seq_len} tokens: raise --seq-len.")
    what = f"{train} ({template} template)"
    if problems := reading.problems:
        what += f"; {len(problems):,} malformed left out, such as {problems[0]}"
    tokens = sum(len(example["labels"]) for example in train.examples)
    return Source(what, train.examples, held_out.examples, tokens, pad_id(tokenizer))


def largest_id(rows: Rows) -> int:
    """The largest token id in `rows`: it has to be below the model's vocabulary."""
    if isinstance(rows, TokenShards):
        return max(int(array.max()) for array in rows.arrays)
    if isinstance(rows, np.ndarray):
        return int(rows.max())
    return max(chain.from_iterable(example["input_ids"] for example in rows))
