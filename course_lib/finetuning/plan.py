"""A training run before it begins: its data, its steps, what is trained and the memory it takes. Nothing is written."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from course_lib.adapters import adapted_layers
from course_lib.errors import CourseError
from course_lib.finetuning.memory import MemoryEstimate, MemorySettings, estimate_memory
from course_lib.finetuning.model import adapt, shape_of, with_adapter_shape
from course_lib.finetuning.naming import is_scratch
from course_lib.finetuning.settings import Settings, shared_settings
from course_lib.finetuning.source import Source, largest_id
from course_lib.finetuning.sources import MicroBatches, read_source
from course_lib.finetuning.task import Task
from course_lib.finetuning.weights import read_state_dict
from course_lib.models.pretrained import DEFAULT, load_tokenizer
from course_lib.options import filled


@dataclass
class Plan:
    """A run before it begins.

    Attributes:
        settings: complete.
        tokenizer: the model's.
        source: the rows to train on and those held out.
        batches: all micro-batches of the run.
        steps: how many optimiser steps there are.
        parameters: the number of all parameters.
        trainable: the number of trained parameters.
        adapted: the trained parameters of each adapted layer, by its name.
        memory: the estimate for one step.
        task: what the run is for.
    """

    settings: Settings
    tokenizer: Any
    source: Source
    batches: MicroBatches
    steps: int
    parameters: int
    trainable: int
    adapted: dict[str, int]
    memory: MemoryEstimate
    task: Task = field(default_factory=Task)

    @property
    def warmup_steps(self) -> int:
        """Steps of the warm-up."""
        return round(self.settings.warmup_ratio * self.steps)


def make_plan(
    settings: Settings,
    read: Callable[[Settings, Any, int | None], Source] | None = None,
    task: Task | None = None,
    tokenizer: Any = None,
) -> Plan:
    """Read the data and the model's shapes: all that can be said of the run without weights. Nothing is written.

    Args:
        settings: complete.
        read: makes the source of settings, tokenizer and the model's number of positions; None: `read_source`.
        task: what the run is for; None: the next token.
        tokenizer: the model's; None: the one that the settings name.

    Returns:
        The plan. Its settings also have what data and model decide: row length, targets, evaluations.

    Raises:
        CourseError: settings, data and model do not fit together.
    """
    s = settings
    tokenizer = tokenizer or load_tokenizer(s.tokenizer or (DEFAULT if is_scratch(s) else s.model))
    model = shape_of(s, tokenizer)
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit and s.seq_len and s.seq_len > limit:
        raise CourseError(f"--seq-len {s.seq_len}: {s.model} has {limit} positions.")
    if s.weights is not None:
        read_state_dict(model, s.weights)  # what does not fit is said before anything is written
    # The adapter is put on a model without weights, so that its parameters are counted rather than computed.
    s = with_adapter_shape(s, model)
    parameters = sum(p.numel() for p in model.parameters())
    adapt(model, s)
    source = (read or _read)(s, tokenizer, limit)
    s = replace(s, seq_len=source.seq_len)  # where it was not given, the data have decided it
    largest = max(map(largest_id, (source.train, source.held_out)))
    if largest >= model.config.vocab_size:
        raise CourseError(
            f"{s.dataset} has the token {largest}, and {s.model} a vocabulary of {model.config.vocab_size}: it was "
            "tokenised for another model."
        )
    batches, steps = _how_long(s, source)
    if s.eval_strategy == "epoch":  # the Trainer counts in steps, so a pass becomes a number of them
        s = replace(s, eval_every=max(1, round(steps * batches.per_pass / len(batches))))
    adapted = {name: _trained(layer) for name, layer in adapted_layers(model)}
    shared = shared_settings(replace(s, seq_len=source.row_tokens or source.seq_len), MemorySettings)
    memory = estimate_memory(model, MemorySettings(**shared))
    return Plan(s, tokenizer, source, batches, steps, parameters, _trained(model), adapted, memory, task or Task())


def _read(s: Settings, tokenizer: Any, positions: int | None) -> Source:
    """The source of `course train`."""
    return read_source(
        s.dataset,
        tokenizer,
        s.seq_len,
        positions=positions,
        max_train=s.max_train_samples,
        max_eval=s.max_eval_samples,
        by_document=s.tokens_per_step is not None,
        too_long=s.too_long,
        template=s.template,
        train_on=s.train_on,
        format=s.format,
        map=s.map,
    )


def _trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _how_long(s: Settings, source: Source) -> tuple[MicroBatches, int]:
    """All micro-batches of the run, and into how many steps the Trainer will take them together."""
    batches = MicroBatches(source, s.batch_size, 0, s.seed)
    accumulated = filled(s.grad_accum_steps)
    batches.total = s.steps * accumulated if s.steps else math.ceil(filled(s.epochs) * batches.per_pass)
    if s.tokens_per_step is None:
        return batches, math.ceil(batches.total / accumulated)
    # Token-aware: how many micro-batches make a step depends on what is in them.
    steps, tokens, number = 0, 0, 0
    while steps < s.steps if s.steps else number < batches.total:
        tokens, number = tokens + batches.tokens(number), number + 1
        if tokens >= s.tokens_per_step:
            steps, tokens = steps + 1, 0
    batches.total = number
    return batches, steps + (tokens > 0)


def data_fingerprint(plan: Plan) -> str:
    """A hash of the first and the last micro-batch and of how many there are. Other data give another hash."""
    digest = hashlib.sha256(f"{len(plan.batches)} {plan.source.tokens} {len(plan.source.held_out)}".encode())
    for number in (0, len(plan.batches) - 1):
        batch = plan.batches[number]
        digest.update(np.ascontiguousarray(batch["input_ids"] if isinstance(batch, dict) else batch).tobytes())
    return digest.hexdigest()
