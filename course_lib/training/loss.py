"""The loss of every chapter: cross-entropy of the next token. Four functions give it:

- `next_token_loss(logits, labels)` is the mean over the targets: for reading, and for a loop of one's own;
- `summed_loss(logits, labels)` is their sum: where several batches are added up, as in an evaluation;
- `summed_loss_(logits, labels, weight)` is the sum where the logits are not needed afterwards: less time and memory;
- `training_loss(model, batch, weight)` is what a training step asks for: forward pass and loss of any model.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from course_lib.data.masking import IGNORE
from course_lib.models.decoder import Decoder

# The pieces of `summed_loss_`: on a CPU they stay in the processor's cache and are small beside all rows; a GPU wants
# more to do at once.
GPU_ROWS, MAX_CPU_ROWS = 1024, 32
CACHE_ELEMENTS = 2**19  # 2 MB of float32


def next_token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean of -log p(label[t+1] | tokens[..t]) over the labels that are not IGNORE, in nats per token.

    The shift by one happens here: position t predicts label t+1, so the first label is never a target. The loss is
    computed in float32, which transformers does too.

    Args:
        logits: (batch, time, vocabulary).
        labels: (batch, time), unshifted: the tokens themselves, with IGNORE where a token is not trained on.

    Returns:
        A scalar.

    Example:
        >>> labels = torch.tensor([[0, 1, 2]])
        >>> round(next_token_loss(torch.zeros(1, 3, 10), labels).item(), 4)  # even odds: ln 10
        2.3026
    """
    return summed_loss(logits, labels) / count_targets(labels)


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`next_token_loss` as a sum over the targets instead of their mean.

    Sums divided by all targets of a step add up over micro-batches of any sizes. A mean of means would weigh a token of
    a short batch more.

    Args:
        logits: (batch, time, vocabulary).
        labels: (batch, time), unshifted, with IGNORE where a token is not trained on.

    Returns:
        A float32 scalar.
    """
    return F.cross_entropy(logits.flatten(0, 1).float(), _targets(labels), ignore_index=IGNORE, reduction="sum")


def summed_loss_(logits: torch.Tensor, labels: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
    """`weight` times `summed_loss`, in less time and memory: the logits are overwritten by their gradient.

    A training step does not need the logits afterwards. The underscore is torch's mark of what works in place. The
    logits of 256 tokens of SmolLM2 are 50 MB, and the plain form makes three more arrays of that size.

    Args:
        logits: (batch, time, vocabulary). Where they are float32, their values are lost.
        labels: (batch, time), unshifted, with IGNORE where a token is not trained on.
        weight: a factor, one over the step's number of targets for a mean.

    Returns:
        A float32 scalar.
    """
    return _CrossEntropy.apply(logits.flatten(0, 1).float(), _targets(labels), weight)


def training_loss(model: nn.Module, batch: dict[str, torch.Tensor], weight: float) -> torch.Tensor:
    """`weight` times `summed_loss` of a model on a micro-batch, ready for `backward()`.

    Our Decoder goes from hidden states to the loss without ever holding all logits (`models.fused_loss`). Any other
    model, transformers' for one, gives its logits, which are then overwritten by their gradient.

    Args:
        model: maps the batch to an object with `.logits`; it may be wrapped for several processes.
        batch: the arguments of its forward pass, "input_ids" (batch, time) among them, and "labels" (batch, time),
            unshifted, IGNORE where a token is not trained on.
        weight: a factor, one over the step's number of targets for a mean.

    Returns:
        A scalar.
    """
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    labels = batch["labels"]  # (batch, time)
    # The fused loss is written for a CPU in full precision; everything else takes the plain way below.
    unwrapped = getattr(model, "module", model)  # DistributedDataParallel keeps the model there
    if isinstance(unwrapped, Decoder) and labels.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        # Forward pass and loss in one. The decoder divides by a number of targets, and weight is one over it.
        return model(**inputs, labels=labels, num_items_in_batch=1 / weight, skip_logits=True).loss
    logits = model(**inputs).logits  # the forward pass: (batch, time, vocabulary)
    return summed_loss_(logits, labels, weight)


def _targets(labels: torch.Tensor) -> torch.Tensor:
    """(batch, time) -> (batch x time): position t has label t+1, and a row's last position has IGNORE."""
    # The labels move instead of the logits, which would have to be copied: they are the largest array of a step.
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE).flatten()


class _CrossEntropy(torch.autograd.Function):
    """weight times torch's summed cross-entropy of x (rows, vocabulary), and its gradient, which is left in x.

    It takes a few rows at a time: what torch allocates on the way is then small, and reused from piece to piece.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, targets: torch.Tensor, weight: float) -> torch.Tensor:
        """x (rows, vocabulary), targets (rows,) -> the loss, a scalar. Afterwards x holds d loss / d x."""
        rows = GPU_ROWS if x.is_cuda else min(MAX_CPU_ROWS, max(1, CACHE_ELEMENTS // x.shape[1]))
        total: Any = 0.0  # it takes the dtype of the pieces' losses, which is float32 under autocast
        for part, target in zip(x.split(rows), targets.split(rows), strict=True):
            with torch.enable_grad():  # a Function's forward runs without; these few rows need a graph of their own
                logits = part.detach().requires_grad_()
                loss = weight * F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
            part.copy_(torch.autograd.grad(loss, logits)[0])  # `part` is a view, so this writes into x
            total += loss.detach()
        ctx.gradient = x
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """The gradient (rows, vocabulary) that the forward pass left, times `upstream`, which is 1 for a plain loss."""
        # The loss lives on until the next one is computed; what it still holds then is never freed before the update.
        gradient, ctx.gradient = ctx.gradient, None
        if upstream.is_cuda or upstream != 1:  # to ask a GPU for the number would take longer than the product
            gradient.mul_(upstream)
        return gradient, None, None


def count_targets(labels: torch.Tensor) -> int:
    """How many labels (batch, time) are predicted: all but the first column that are not IGNORE."""
    return int((labels[:, 1:] != IGNORE).sum())
