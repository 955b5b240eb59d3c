"""Loss and perplexity on held-out text: the one place that measures them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from course_lib.data.batching import Rows, collate
from course_lib.errors import CourseError
from course_lib.models.devices import device_of
from course_lib.models.modes import evaluating
from course_lib.rounding import ceil_div
from course_lib.training.distributed import World, is_sharded
from course_lib.training.loss import count_targets, summed_loss


@dataclass(frozen=True)
class HeldOut:
    """What a model reaches on held-out rows.

    Attributes:
        loss: the mean over all targets, in nats per token.
        accuracy: the share of targets whose likeliest guess is right. None: it was not asked for.
    """

    loss: float
    accuracy: float | None = None


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    rows: Rows,
    batch_size: int = 8,
    *,
    accuracy: bool = False,
    pad_token_id: int = 0,
    world: World = World(),  # noqa: B008 - frozen
) -> HeldOut:
    """Measure loss and accuracy over all targets of `rows`, in evaluation mode; the model's own mode is put back.

    Args:
        model: as the Trainer takes it.
        rows: token blocks (rows, time), of which every token after a row's first is a target; or examples
            {"input_ids", "labels"} of unequal lengths, which count by their targets.
        batch_size: rows at a time.
        accuracy: also count right guesses. Of equal scores the lowest id is the guess.
        pad_token_id: fills up shorter examples; it is masked.
        world: several processes take turns at the batches, and each gets the result over all.

    Returns:
        The loss, and the accuracy where it was asked for.

    Raises:
        CourseError: `rows` is empty, or a token id is not in the model's vocabulary.
    """
    if not len(rows):
        raise CourseError("There is nothing to evaluate on: the held-out part is empty. Give more text.")
    device = device_of(model)
    loss, right, targets = 0.0, 0, 0
    starts = range(world.rank * batch_size, len(rows), world.size * batch_size)
    # The parts of a sharded model meet at each call, so a process without a batch of its own calls it all the same.
    rounds = ceil_div(len(rows), world.size * batch_size) if is_sharded(model) else len(starts)
    with evaluating(model):
        for turn in range(rounds):
            start, counts = (starts[turn], True) if turn < len(starts) else (0, False)
            batch = collate(rows, range(start, min(start + batch_size, len(rows))), pad_token_id)
            if not isinstance(batch, dict):
                batch = {"input_ids": batch, "labels": batch}
            _check_vocabulary(model, batch["input_ids"])
            tensors = {key: torch.as_tensor(value, device=device).long() for key, value in batch.items()}
            labels = tensors.pop("labels")  # (batch, time)
            logits = model(**tensors).logits  # (batch, time, vocabulary)
            if not counts:
                continue
            loss += summed_loss(logits, labels).item()  # a sum: rows of unequal lengths count by their targets
            targets += count_targets(labels)
            if accuracy:  # position t predicts label t + 1
                right += (logits[:, :-1].argmax(-1) == labels[:, 1:]).sum().item()

    counted = world.total(targets)
    if not counted:
        raise CourseError("There is nothing to evaluate on: no held-out row has a target. Look at the labels.")
    return HeldOut(world.total(loss) / counted, world.total(right) / counted if accuracy else None)


def evaluate_loss(model: nn.Module, rows: Rows, batch_size: int = 8) -> float:
    """The mean next-token loss over all targets.

    Args:
        model: maps token ids (batch, time) to `.logits`.
        rows: token blocks (rows, time) or examples, see `evaluate`.
        batch_size: rows at a time.

    Returns:
        The loss in nats per token.
    """
    return evaluate(model, rows, batch_size).loss


def _check_vocabulary(model: nn.Module, ids: np.ndarray) -> None:
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None)
    if vocabulary is not None and ids.max() >= vocabulary:
        raise CourseError(
            f"Token id {ids.max()} is not in this model's vocabulary of {vocabulary}. Use the model's own tokenizer."
        )


def perplexity(loss: float) -> float:
    """exp(loss): the number of equally likely tokens that would be as hard to guess.

    Example:
        >>> round(perplexity(2.302585))
        10
    """
    return math.exp(loss)
