"""Supervised fine-tuning: a model learns to answer from records of questions and answers.

The loss is the mean of -log p over the tokens of the answers of a whole step. It is the Trainer's own, so a token
counts the same in a short answer and in a long one. Checked against TRL's SFTTrainer, token by token and over a curve,
in tests/parity/test_sft.py. Where TRL does something else, ours does not: it appends a second end token to text that
was rendered before, cuts what is too long without a word, and averages its evaluations over rows.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from course_lib.alignment.log_probs import backbone_and_head, hidden_states
from course_lib.alignment.settings import SFTSettings
from course_lib.alignment.sources import read_record_parts
from course_lib.alignment.templates import check_template
from course_lib.data.batching import pack
from course_lib.data.masking import IGNORE
from course_lib.data.tokenizers import has_chat_template
from course_lib.finetuning.plan import Plan, make_plan
from course_lib.finetuning.record_source import encode_source
from course_lib.finetuning.settings import Settings
from course_lib.finetuning.source import Source, SourceOptions
from course_lib.finetuning.task import Task
from course_lib.models.decoder import Decoder
from course_lib.models.fused_loss import linear_cross_entropy
from course_lib.training.objective import NextToken, Objective

PackedRow = dict[str, np.ndarray]


class Supervised(NextToken):
    """The next token's loss with logits only where there is a label.

    Of real instructions about two tokens in three belong to the prompt. The Trainer's own objective computes their
    logits, too, with any model but our Decoder; here transformers' models are asked for hidden states, and the head is
    applied to those before a label. The values and the gradients are the same (tests/alignment/test_sft.py).
    """

    def loss(self, model: nn.Module, batch: dict[str, Tensor], weight: float) -> Tensor:
        """`weight` times the summed loss.

        Args:
            model: a causal language model.
            batch: its arguments, and "labels" (batch, time), unshifted.
            weight: one over the targets of the whole step.

        Returns:
            A scalar.
        """
        parts = None if isinstance(model, Decoder) else backbone_and_head(model)
        if parts is None:
            return super().loss(model, batch, weight)
        inputs, labels = {key: value for key, value in batch.items() if key != "labels"}, batch["labels"]
        hidden = hidden_states(parts[0], inputs)  # (batch, time, width)
        rows, columns = torch.nonzero(labels[:, 1:] != IGNORE, as_tuple=True)  # position t predicts label t + 1
        return linear_cross_entropy(hidden[rows, columns], parts[1], labels[rows, columns + 1], weight)


class SupervisedTask(Task):
    """A run whose objective is `Supervised`."""

    def objective(self, model: nn.Module, plan: Plan, folder: Path) -> Objective:
        """`Supervised`.

        Args:
            model: with its adapter on.
            plan: of the run.
            folder: of the run.
        """
        return Supervised()


def plan_sft(settings: SFTSettings) -> Plan:
    """Read the records and the model's shapes: all that can be said of the run without weights. Nothing is written.

    Args:
        settings: complete.

    Returns:
        The plan, for `finetuning.run.train`.

    Raises:
        CourseError: settings, records, template and model do not fit together.
    """
    return make_plan(settings, read_supervised, SupervisedTask())


def record_options(s: Settings, tokenizer: Any, positions: int | None) -> SourceOptions:
    """How records are read, with the template that the tokenizer has; a faulty template is refused.

    Args:
        s: the run's settings.
        tokenizer: the model's.
        positions: tokens that the model can take.

    Returns:
        The options, their template filled in.

    Raises:
        CourseError: see `check_template`.
    """
    template = s.template or ("chat" if has_chat_template(tokenizer) else "instruction")
    check_template(tokenizer, template)
    return SourceOptions(
        s.seq_len,
        positions=positions,
        max_train=s.max_train_samples,
        max_eval=s.max_eval_samples,
        too_long=s.too_long,
        template=template,
        train_on=s.train_on,
        format=s.format,
        map=s.map,
    )


def read_supervised(s: Settings, tokenizer: Any, positions: int | None) -> Source:
    """Records as examples, packed where the settings say so.

    Args:
        s: `SFTSettings`.
        tokenizer: the model's.
        positions: tokens that the model can take; None for any number.

    Returns:
        The rows to train on, and examples held out, which are never packed.

    Raises:
        CourseError: the source cannot be trained on.
    """
    assert isinstance(s, SFTSettings)
    options = record_options(s, tokenizer, positions)
    if s.packing and s.seq_len and positions:
        options = replace(options, seq_len=min(s.seq_len, positions))
    source = encode_source(s.dataset, read_record_parts(s.dataset, options), tokenizer, options)
    return packed_source(source) if s.packing else source


def packed_source(source: Source) -> Source:
    """A source whose examples share rows of `seq_len` tokens, none seeing another.

    Args:
        source: of examples.

    Returns:
        The same with packed rows. Every example is whole: TRL's packing cuts what is longer than a row.
    """
    rows = packed_rows(source.train, source.seq_len, source.pad_id)  # type: ignore[arg-type]
    fill = source.tokens / (len(rows) * source.seq_len)
    what = f"{source.what}, packed into {len(rows):,} rows of {source.seq_len} tokens ({fill:.1%} full)"
    return replace(source, what=what, train=rows, collate=collate_packed)


def packed_rows(examples: Sequence[dict[str, list[int]]], capacity: int, pad_id: int) -> list[PackedRow]:
    """`data.pack`, one dictionary for each row, without the padding at its end.

    Args:
        examples: {"input_ids", "labels"} of each.
        capacity: tokens of a row.
        pad_id: unused in the result; see `pack`.

    Returns:
        {"input_ids", "labels", "position_ids", "segment_ids"} of each row.
    """
    packed = pack(examples, capacity, pad_id)
    used = (packed["segment_ids"] >= 0).sum(1)  # (rows,): padding is at the end alone
    return [{key: array[row, : used[row]] for key, array in packed.items()} for row in range(len(used))]


def collate_packed(rows: Sequence[PackedRow], chosen: np.ndarray, pad_token_id: int) -> dict[str, np.ndarray]:
    """Some packed rows as one batch.

    Args:
        rows: from `packed_rows`.
        chosen: which of them.
        pad_token_id: fills up shorter rows.

    Returns:
        int64 (batch, time) each, as `pack` gives them.
    """
    fillers = {"input_ids": pad_token_id, "labels": IGNORE, "position_ids": 0, "segment_ids": -1}
    time = max(len(rows[i]["input_ids"]) for i in chosen)
    batch = {key: np.full((len(chosen), time), filler) for key, filler in fillers.items()}
    for place, number in enumerate(chosen):
        for key, array in batch.items():
            array[place, : len(rows[number][key])] = rows[number][key]
    return batch
