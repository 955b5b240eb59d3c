"""The loss of every chapter: cross-entropy of the next token."""

import torch
from torch.nn import functional as F

from course_lib.data.masking import IGNORE


def next_token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of -log p(label[t+1] | tokens[..t]) over the labels that are not IGNORE, in nats a token.

    logits: (batch, time, vocabulary), labels: (batch, time), unshifted, as the tokens themselves. Returns a scalar.
    The shift by one happens here: position t predicts label t+1, so the first label is never a target. Computed in
    float32, as transformers does.
    """
    return summed_loss(logits, labels) / count_targets(labels)


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`next_token_loss` as a sum: divided by all targets of a step it adds up over micro-batches of any sizes, where
    a mean of means would weigh a token of a short batch more."""
    # The labels move instead of the logits, which would have to be copied: they are the largest array of a step.
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE, reduction="sum")


def count_targets(labels: torch.Tensor) -> int:
    """How many labels (batch, time) are predicted: all but the first column that are not IGNORE."""
    return int((labels[:, 1:] != IGNORE).sum())
