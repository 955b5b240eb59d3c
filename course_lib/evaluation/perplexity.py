"""Loss and perplexity on held-out text."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


@torch.inference_mode()
def evaluate_loss(model: nn.Module, blocks: np.ndarray, batch_size: int = 8) -> float:
    """Mean next-token loss over all predicted tokens of `blocks` (rows, time), in nats a token."""
    device = next(model.parameters()).device
    total = 0.0
    for start in range(0, len(blocks), batch_size):
        tokens = torch.as_tensor(blocks[start : start + batch_size], device=device)
        logits = model(tokens).logits[:, :-1].flatten(0, 1).float()
        total += F.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="sum").item()
    return total / (len(blocks) * (blocks.shape[1] - 1))


def perplexity(loss: float) -> float:
    """exp(loss): the number of equally likely tokens that would be as hard to guess."""
    return math.exp(loss)
