"""What `course train` trains on: a corpus, a text, token shards or records, as numbered micro-batches.

Left out: mixing several sources, and packing records into rows (chapter 01 has it).
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from course_lib.data import length_grouped, split_paragraphs, style_corpus
from course_lib.data.corpora import NAMED, no_corpus, read_corpus
from course_lib.data.formats import check_format, parse_map
from course_lib.data.masking import Example, shorten
from course_lib.data.parts import read_folder
from course_lib.data.rows import ENDINGS, cure_for
from course_lib.data.shards import TokenShards, encode_many
from course_lib.data.tokenizers import Tokenizer
from course_lib.errors import CourseError
from course_lib.finetuning.record_source import read_record_source
from course_lib.finetuning.settings import BUNDLED
from course_lib.finetuning.source import HELD_OUT, Source, SourceOptions, pad_id, told_of_longer
from course_lib.suggestions import similar_paths


class MicroBatches(Sequence):
    """Numbered micro-batches, each made when it is asked for: the same for the same seed, whenever a run is resumed.

    Each pass goes through all rows in a new order that the seed and the pass decide; its last batch may be smaller.
    Examples come in batches of similar lengths (see `length_grouped`), padded on the right.

    Args:
        source: its training rows are shared out.
        batch_size: rows of a micro-batch.
        total: how many micro-batches there are.
        seed: decides the order.
    """

    def __init__(self, source: Source, batch_size: int, total: int, seed: int):
        self.source, self.batch_size, self.total, self.seed = source, batch_size, total, seed
        self.lengths: list[int] | None = None  # of examples; blocks have one length
        if isinstance(source.train, list):
            self.lengths = [len(example["input_ids"]) for example in source.train]
        self.per_pass = math.ceil(len(source.train) / batch_size)
        self._known: tuple[int, list[np.ndarray]] = (-1, [])

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, number: Any) -> Any:
        """int64 (batch_size, time) of blocks, or the dictionary of `pad` of examples."""
        if not 0 <= number < self.total:
            raise IndexError(f"micro-batch {number} of {self.total}")
        return self.source.collate(self.source.train, self._rows(number), self.source.pad_id)

    def tokens(self, number: int) -> int:
        """Tokens of micro-batch `number` (of any number), without the padding."""
        rows = self._rows(number)
        if self.lengths is not None:
            return sum(self.lengths[i] for i in rows)
        return len(rows) * np.asarray(self.source.train[0]).shape[-1]

    def _rows(self, number: int) -> np.ndarray:
        turn, place = divmod(number, self.per_pass)
        if self._known[0] != turn:  # the order of a pass is made once, and kept until the next pass
            self._known = turn, self._order(turn)
        return self._known[1][place]

    def _order(self, turn: int) -> list[np.ndarray]:
        # A seed of its own for each pass: a run that is resumed in pass 3 need not draw the orders of passes 1 and 2.
        seed = int(np.random.SeedSequence([self.seed, turn]).generate_state(1)[0])
        if self.lengths is not None:
            return length_grouped(self.lengths, self.batch_size, seed)
        count = len(self.source.train)
        order = np.random.default_rng(seed).permutation(count) if self.source.shuffle else np.arange(count)
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]


def read_source(name: str, tokenizer: Tokenizer, seq_len: int | None = None, **options: Any) -> Source:
    """Read and tokenise a source.

    Args:
        name: "keepers_log" (in the package), "tinystories", "wikitext2", a text file, a folder of WikiText files or
            token shards, or a file or folder of records.
        tokenizer: the model's.
        seq_len: tokens of a row, see `SourceOptions`.
        options: the other fields of `SourceOptions`.

    Returns:
        The rows to train on and those held out.

    Raises:
        CourseError: there is no such source, or too little of it.
    """
    check_source(name)
    path, wanted = Path(name).expanduser(), SourceOptions(seq_len, **options)
    if _has_shards(path):
        return _shards(path, wanted)
    if has_records(path):
        return read_record_source(path, tokenizer, wanted)
    if path.is_dir() or (name in NAMED and not path.exists()):
        parts = (
            read_corpus(name, "train", wanted.max_train or None),
            read_corpus(name, "validation", wanted.max_eval or None),
        )
        return _texts(parts, tokenizer, wanted, rows=None)
    text = style_corpus() if name == BUNDLED and not path.exists() else read_corpus(name)[0]
    return _texts(_split(text, wanted.by_document), tokenizer, wanted, rows=wanted.max_train or None)


def _has_shards(path: Path) -> bool:
    return path.is_dir() and any(path.glob("train_*.npy"))


def has_records(path: Path) -> bool:
    """Whether a path is a file of records, or a folder that has neither token shards nor WikiText files."""
    if path.is_dir():
        return not _has_shards(path) and not any(path.glob("wiki.*.*"))
    return path.name.lower().endswith(ENDINGS)


def check_source(name: str, format: str = "auto", map: str | None = None) -> None:
    """Refuse what cannot be a source: quick, before anything heavy is imported or loaded.

    Args:
        name: see `read_source`.
        format: see `read_records`.
        map: see `read_records`.

    Raises:
        CourseError: there is no such source or format, or the map is not one.
    """
    check_format(format)
    if map is not None:
        parse_map(map)
    path = Path(name).expanduser()
    if path.is_file() and not path.name.lower().endswith(ENDINGS) and (cure := cure_for(path.name)):
        raise CourseError(f"{name} cannot be trained on as it is{cure}.")
    if path.is_dir() and has_records(path):
        _ = read_folder(path).training
    if path.exists() or name in (*NAMED, BUNDLED):
        return
    if path.name.lower().endswith(ENDINGS):
        raise CourseError(f"There is no file of records {name}.{similar_paths(path)}")
    raise no_corpus(name, (BUNDLED,))


def _texts(parts: tuple[list[str], list[str]], tokenizer: Tokenizer, wanted: SourceOptions, rows: int | None) -> Source:
    """Texts as a source: (training documents, held-out documents), of which at most `rows` rows are trained on."""
    seq_len = wanted.row_length
    held_out = _pieces(parts[1], tokenizer, seq_len)[: wanted.max_eval or None]
    if not wanted.by_document:
        blocks = _blocks(parts[0], tokenizer, seq_len)[:rows]
        what = f"{len(blocks):,} blocks of {blocks.shape[1]} tokens"
        return Source(what, blocks, held_out, blocks.size, pad_id(tokenizer), seq_len)
    too_long = wanted.too_long or "cut-end"
    train, lengths = _documents(parts[0], tokenizer, seq_len, too_long)
    train = train[:rows]
    longer = told_of_longer(lengths, wanted, seq_len, too_long, "documents")
    if too_long == "error" and longer:
        raise CourseError(f"Of this text, {longer}.")
    if not train:
        raise CourseError(f"A part of this text has no document of 2 to {seq_len} tokens.")
    tokens = sum(len(row["input_ids"]) for row in train)
    what, notes = f"{len(train):,} documents of up to {seq_len} tokens", (longer,) if longer else ()
    return Source(what, train, held_out, tokens, pad_id(tokenizer), seq_len, notes)


def _split(text: str, by_document: bool) -> tuple[list[str], list[str]]:
    """The last tenth held out: of the paragraphs where there are enough, else of the letters."""
    try:
        parts = split_paragraphs(text, HELD_OUT)
    except CourseError:
        cut = int((1 - HELD_OUT) * len(text))
        return [text[:cut]], [text[cut:]]
    train, held_out = (part.split("\n\n") if by_document else [part] for part in parts)
    return train, held_out


def _blocks(documents: Iterable[str], tokenizer: Tokenizer, seq_len: int) -> np.ndarray:
    """All documents' tokens in a row, cut into int64 (blocks, seq_len); a tail that fills no block is left out."""
    ids = _joined(documents, tokenizer)
    size = min(seq_len, len(ids))  # a text shorter than a row becomes one shorter row
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
        count = "1 token" if len(ids) == 1 else "no tokens"
        raise CourseError(f"A part of this text has {count}: at least 2 are needed, to predict one.")
    return ids


def _encoded(documents: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    documents = iter(documents)
    while some := list(islice(documents, 256)):
        yield from encode_many(tokenizer, some)


def _documents(
    documents: Iterable[str], tokenizer: Tokenizer, seq_len: int, too_long: str
) -> tuple[list[Example], list[int]]:
    """(an example of each document within seq_len, the documents' own lengths)."""
    examples, lengths = [], []
    for ids in _encoded(documents, tokenizer):
        if len(ids) > 1:  # a single token has nothing to predict
            lengths.append(len(ids))
            example = shorten({"input_ids": ids, "labels": ids}, seq_len, too_long)
            examples += [example] if example is not None else []
    return examples, lengths


def _shards(folder: Path, wanted: SourceOptions) -> Source:
    seq_len = wanted.row_length
    train, val = TokenShards(folder, "train", seq_len), TokenShards(folder, "val", 1)
    longest = max(map(len, val.arrays))
    held_out = TokenShards(folder, "val", min(seq_len, longest))
    count = min(len(train), wanted.max_train or len(train))
    rows = train if count == len(train) else train[np.arange(count)]
    tokens = rows.tokens if isinstance(rows, TokenShards) else rows.size
    return Source(
        f"{count:,} blocks of {seq_len} tokens from {len(train.arrays)} shards",
        rows,
        held_out[np.arange(min(len(held_out), wanted.max_eval or len(held_out)))],
        tokens,
        seq_len=seq_len,
    )
