"""Supervised fine-tuning: a model learns to answer from records of questions and answers.

The loss is the mean of -log p over the tokens of the answers of a whole step. It is the Trainer's own, so a token
counts the same in a short answer and in a long one. tests/parity/test_sft.py compares it with TRL's SFTTrainer, token
by token and over a curve. It does not copy three habits of TRL, which appends a second end token to text that was
rendered before, silently cuts examples that are too long, and averages its evaluations over rows.
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
    """The loss of the next token, with logits only at positions before a label.

    In real instructions about two tokens in three belong to the prompt. The Trainer's own objective computes their
    logits as well, with every model but our Decoder. Here, models of transformers compute hidden states, and the head
    is applied only to those before a label. Values and gradients are the same (tests/alignment/test_sft.py).

    Example:
        >>> from course_lib.models.config import CONFIGS
        >>> ids = torch.tensor([[5, 6, 7, 8]])
        >>> batch = {"input_ids": ids, "labels": torch.tensor([[IGNORE, IGNORE, 7, 8]])}
        >>> objective = Supervised()
        >>> targets = objective.count(batch)
        >>> targets, objective.loss(Decoder(CONFIGS["tiny-llama"]), batch, 1 / targets).shape
        (2, torch.Size([]))
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

        Returns:
            The loss of supervised fine-tuning.
        """
        return Supervised()


def plan_sft(settings: SFTSettings) -> Plan:
    """Plan a run: read the records and the shapes of the model, but neither its weights nor any output folder.

    Args:
        settings: the complete settings.

    Returns:
        The plan, for `finetuning.run.train`.

    Raises:
        CourseError: settings, records, template and model do not fit together.
    """
    return make_plan(settings, read_supervised, SupervisedTask())


def record_options(s: Settings, tokenizer: Any, positions: int | None) -> SourceOptions:
    """The options for reading records. The template is checked, and chosen by the tokenizer if the settings name none.

    Args:
        s: the run's settings.
        tokenizer: the model's.
        positions: how many tokens the model can take.

    Returns:
        The options, with a template.

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
    """Read records as examples, and pack them if the settings say so.

    Args:
        s: `SFTSettings`.
        tokenizer: the model's.
        positions: how many tokens the model can take; None for any number.

    Returns:
        The rows to train on, and the held-out examples, which are never packed.

    Raises:
        CourseError: the records cannot be used for training.
    """
    assert isinstance(s, SFTSettings)
    options = record_options(s, tokenizer, positions)
    if s.packing and s.seq_len and positions:
        options = replace(options, seq_len=min(s.seq_len, positions))
    source = encode_source(s.dataset, read_record_parts(s.dataset, options), tokenizer, options)
    return packed_source(source) if s.packing else source


def packed_source(source: Source) -> Source:
    """Pack the examples of a source into rows of `seq_len` tokens. No example attends to another.

    Args:
        source: a source of examples.

    Returns:
        The same source with packed rows. Every example stays whole, whereas TRL's packing cuts those longer than a row.
    """
    rows = packed_rows(source.train, source.seq_len, source.pad_id)  # type: ignore[arg-type]
    fill = source.tokens / (len(rows) * source.seq_len)
    what = f"{source.what}, packed into {len(rows):,} rows of {source.seq_len} tokens ({fill:.1%} full)"
    return replace(source, what=what, train=rows, collate=collate_packed)


def packed_rows(examples: Sequence[dict[str, list[int]]], capacity: int, pad_id: int) -> list[PackedRow]:
    """Pack examples into rows, as `data.pack` does, and drop the padding at the end of each row.

    Args:
        examples: {"input_ids", "labels"} of each.
        capacity: the tokens of a row.
        pad_id: the padding token of `pack`; the result has no padding.

    Returns:
        {"input_ids", "labels", "position_ids", "segment_ids"} of each row.

    Example:
        >>> examples = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8, 9], "labels": [-100, 9]}]
        >>> (row,) = packed_rows(examples, capacity=8, pad_id=0)
        >>> row["input_ids"].tolist(), row["position_ids"].tolist()
        ([5, 6, 7, 8, 9], [0, 1, 2, 0, 1])
    """
    packed = pack(examples, capacity, pad_id)
    used = (packed["segment_ids"] >= 0).sum(1)  # (rows,): padding is at the end alone
    return [{key: array[row, : used[row]] for key, array in packed.items()} for row in range(len(used))]


def collate_packed(rows: Sequence[PackedRow], chosen: np.ndarray, pad_token_id: int) -> dict[str, np.ndarray]:
    """Put some packed rows into one batch.

    Args:
        rows: rows from `packed_rows`.
        chosen: the numbers of the rows to take.
        pad_token_id: the token that fills up shorter rows.

    Returns:
        Arrays by name, int64 (batch, time) each, as `pack` gives them.
    """
    fillers = {"input_ids": pad_token_id, "labels": IGNORE, "position_ids": 0, "segment_ids": -1}
    time = max(len(rows[i]["input_ids"]) for i in chosen)
    batch = {key: np.full((len(chosen), time), filler) for key, filler in fillers.items()}
    for place, number in enumerate(chosen):
        for key, array in batch.items():
            array[place, : len(rows[number][key])] = rows[number][key]
    return batch
