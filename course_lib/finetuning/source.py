"""The rows of a training run, and how they are to be read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from course_lib.data.batching import collate
from course_lib.data.masking import Example, fitting_length
from course_lib.data.shards import TokenShards
from course_lib.data.tokenizers import TextEncoder

HELD_OUT = 0.1  # the share held out of a source that does not have such a part itself
SEQ_LEN = 128  # tokens of a row of text
SHARE = 0.99  # of the records that fit into a row, where they decide its length
FATES = {
    "skip": " and are left out (--too-long cut-start or cut-end keeps a part of them)",
    "cut-start": " and lose their beginning",
    "cut-end": " and lose their end",
    "error": ", which --too-long error does not allow",
}
Rows = np.ndarray | TokenShards | list[Example] | list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Source:
    """The rows to train on and those held out: token blocks (rows, seq_len), or examples of unequal lengths.

    Attributes:
        what: in words, for the header; the number of tokens is not in it.
        train: the rows to train on.
        held_out: the rows to evaluate on.
        tokens: of the rows to train on.
        pad_id: the id that fills batches up.
        seq_len: tokens that a row has at most.
        notes: lines for the header: which files were read, and what was left out or cut.
        row_tokens: tokens of the longest row, where that is not `seq_len`.
        shuffle: whether each pass takes the rows in a new order; else their own.
        collate: makes a batch of the numbers of some rows.
    """

    what: str
    train: Rows
    held_out: Rows
    tokens: int
    pad_id: int = 0
    seq_len: int = SEQ_LEN
    notes: tuple[str, ...] = ()
    row_tokens: int | None = None
    shuffle: bool = True
    # A factory: a function as a plain default would also become a method of the class.
    collate: Callable[[Any, np.ndarray, int], Any] = field(default_factory=lambda: collate)


@dataclass(frozen=True)
class SourceOptions:
    """How a source is read.

    Attributes:
        seq_len: tokens that a row has at most. None: 128 of a text; of records, what 99 % of them fit, up to 1,024.
        positions: tokens that the model can take; None for any number.
        max_train: at most so many documents of a named corpus or WikiText folder, records, or blocks of anything else;
            0 for all.
        max_eval: at most so many held-out rows; 0 for all.
        by_document: each document (a text's paragraph) is an example of its own length rather than a part of blocks.
        too_long: what becomes of a longer record or document, see `encode_records`. None: records are left out, and
            documents lose their end.
        template: of records, see `encode_record`. None: the chat template where the tokenizer has one.
        train_on: of records, see `encode_record`.
        format: of records, see `read_records`.
        map: of records, see `read_records`.
    """

    seq_len: int | None = None
    positions: int | None = None
    max_train: int = 0
    max_eval: int = 0
    by_document: bool = False
    too_long: str | None = None
    template: str | None = None
    train_on: str = "response"
    format: str = "auto"
    map: str | None = None

    @property
    def row_length(self) -> int:
        """Tokens of a row of text."""
        return self.seq_len or min(SEQ_LEN, self.positions or SEQ_LEN)


def told_of_longer(lengths: list[int], wanted: SourceOptions, seq_len: int, too_long: str, what: str) -> str:
    """Say how many examples are longer than a row, what becomes of them, and which length would fit.

    Args:
        lengths: tokens of each example.
        wanted: how the source is read.
        seq_len: tokens of a row.
        too_long: what becomes of the longer ones.
        what: what the examples are called.

    Returns:
        A sentence without its full stop, or "" where every example fits.
    """
    longer = sum(length > seq_len for length in lengths)
    if not longer:
        return ""
    share = 1.0 if too_long == "error" else SHARE
    fitting = min(fitting_length(lengths, share), wanted.positions or max(lengths) + 8)
    cure = f"the longest has {max(lengths):,}"
    if fitting > seq_len:
        cure = f"--seq-len {fitting} fits {share:.0%} of them"
    told = f"{longer:,} of {len(lengths):,} {what} ({longer / len(lengths):.1%}) have more than {seq_len:,} tokens"
    return f"{told}{FATES[too_long]}; {cure}"


def pad_id(tokenizer: TextEncoder) -> int:
    """The id that fills batches up. Padding is masked, so any id would do."""
    known = (getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
    return next((token for token in known if token is not None), 0)


def largest_id(rows: Rows) -> int:
    """The largest token id in `rows`: it has to be below the model's vocabulary."""
    if isinstance(rows, TokenShards):
        return max(int(array.max()) for array in rows.arrays)
    if isinstance(rows, np.ndarray):
        return int(rows.max())
    return max(chain.from_iterable(example["input_ids"] for example in rows))
