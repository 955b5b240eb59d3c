"""The loss of every chapter: cross-entropy of the next token."""

import torch
from torch.nn import functional as F

IGNORE = -100  # a label that is not trained on: prompts, padding


def next_token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of -log p(label[t+1] | tokens[..t]) over the labels that are not IGNORE, in nats a token.

    logits: (batch, time, vocabulary), labels: (batch, time), unshifted, as the tokens themselves. Returns a scalar.
    The shift by one happens here: position t predicts label t+1, so the first label is never a target. Computed in
    float32, as transformers does.
    """
    predictions = logits[:, :-1].flatten(0, 1).float()
    return F.cross_entropy(predictions, labels[:, 1:].flatten(), ignore_index=IGNORE)
