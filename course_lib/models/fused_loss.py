"""Cross-entropy from hidden states: the output layer and the loss in one, so that never all logits exist.

The logits are the largest array of a training step: of 256 tokens and SmolLM2's vocabulary of 49,152 they are 50 MB in
float32, and the plain form makes three more of that size. Here they are made for some rows at a time, turned into their
own gradient in place, multiplied on to the gradients of hidden states and weight, and overwritten by the next rows'.
The idea is that of Liger's kernels (arXiv:2410.10989, section 3.2) and of cut cross-entropy (arXiv:2411.09009).

With tied embeddings the output layer's weight is the embedding's table as well. `TableGradient` lets both uses add to
one gradient. tests/models/test_fused_loss.py compares all this with the plain form.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from course_lib.models import onednn
from course_lib.models.fused import can_fuse
from course_lib.rounding import ceil_div

BYTES_AT_ONCE = 2**26  # of logits: enough rows for a matrix product at full speed (340 of SmolLM2 in float32)
CACHED_ELEMENTS = 2**20  # of logits that are looked at together, small enough for a processor's cache


class TableGradient:
    """The gradient of a table that one step uses twice: as output layer and, before, as embedding.

    Each use has a gradient as large as the table, 113 MB for SmolLM2, and the embedding's is nearly all zeros. So the
    output layer, whose backward pass comes first, leaves its gradient here, and the embedding's adds the few rows of
    its tokens to it and hands the sum to autograd.
    """

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def take(self) -> Tensor | None:
        """Hand the gradient over, and forget it here."""
        value, self.value = self.value, None
        return value


def embed(input_ids: Tensor, table: Tensor, gradient: TableGradient) -> Tensor:
    """One row of the table for each token.

    The table's gradient has in each token's row the sum of dx over the places of that token, and is zero elsewhere. It
    is added to what `gradient` holds.

    Args:
        input_ids: (batch, time).
        table: (vocabulary, width).
        gradient: where the output layer leaves its gradient of the same table.

    Returns:
        (batch, time, width).
    """
    return _Embed.apply(input_ids, table, gradient)


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input_ids: Tensor, table: Tensor, gradient: TableGradient) -> Tensor:
        ctx.save_for_backward(input_ids)
        ctx.gradient, ctx.shape = gradient, table.shape
        return F.embedding(input_ids, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor) -> tuple[None, Tensor, None]:
        (input_ids,) = ctx.saved_tensors
        dtable = ctx.gradient.take()
        if dtable is None:  # the output layer had no part in what is being differentiated
            dtable = dx.new_zeros(ctx.shape)
        return None, dtable.index_add_(0, input_ids.flatten(), dx.flatten(0, -2)), None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, scale: float = 1.0, shared: TableGradient | None = None
) -> Tensor:
    """scale times the sum over rows of -log softmax(W h)[target], in nats.

    With p = softmax(W h) and e the one-hot vector of the target, the gradient of a row is, for logits z, h and W,

        dz = scale (p - e),        dh = W^T dz,        dW = dz h^T

    What comes after the loss changes this gradient by a factor only. So it is computed in the forward pass, and the
    logits are not kept. That makes the forward pass dearer and the backward pass free.

    Args:
        hidden: (rows, width).
        weight: (vocabulary, width), of the output layer.
        targets: (rows,), token ids, all of them real: rows without a target are left out before.
        scale: a factor, one over the number of targets for a mean.
        shared: where dW goes instead of to autograd. The weight is then a table that `embed` has used with it.

    Returns:
        A scalar in float32, or float64 where the rows are.
    """
    if can_fuse(hidden) and len(hidden):  # a process of several may have no row with a target
        return _LinearCrossEntropy.apply(hidden, weight, targets, scale, shared)
    return linear_cross_entropy_plain(hidden, weight, targets, scale)


def linear_cross_entropy_plain(hidden: Tensor, weight: Tensor, targets: Tensor, scale: float = 1.0) -> Tensor:
    """The same in two steps, with all logits.

    Args:
        hidden: (rows, width).
        weight: (vocabulary, width).
        targets: (rows,), token ids.
        scale: a factor.

    Returns:
        A scalar.
    """
    logits = F.linear(hidden, weight)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return scale * F.cross_entropy(wide, targets, reduction="sum")


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, shared: TableGradient | None
    ) -> Tensor:
        want_weight = ctx.needs_input_grad[1]
        dhidden = torch.empty_like(hidden)
        dweight = torch.empty_like(weight) if want_weight else None  # the first product fills it
        if dweight is not None and not len(hidden):
            dweight.zero_()
        # As many rows at a time as BYTES_AT_ONCE holds logits of, in pieces of equal size.
        pieces = ceil_div(len(hidden) * len(weight) * hidden.element_size(), BYTES_AT_ONCE)
        rows = max(1, ceil_div(len(hidden), max(1, pieces)))
        loss = torch.zeros((), dtype=_wide(hidden.dtype))
        for start in range(0, len(hidden), rows):
            h, target = hidden[start : start + rows], targets[start : start + rows]
            logits = onednn.times(h, weight.T)  # (rows, vocabulary)
            loss += cross_entropy_(logits, target)  # the logits are p - e now
            dhidden[start : start + rows] = onednn.times(logits, weight).mul_(scale)  # dh = scale (p - e) W
            if dweight is not None:
                # beta=0 overwrites what `empty_like` left; later pieces add to the first one's product.
                dweight.addmm_(logits.T, h, beta=0 if start == 0 else 1, alpha=scale)
            del logits  # its memory serves the next piece's
        ctx.gradients, ctx.shared = (dhidden, dweight), shared
        return scale * loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("linear_cross_entropy hands its gradient over once: call it again before backward().")
        # Handed over and not kept, so that autograd and the optimiser may work on them in place.
        (dhidden, dweight), ctx.gradients = ctx.gradients, None
        if upstream != 1:  # not the last factor after all: a loss scale, or another term's weight
            dhidden.mul_(upstream)
            if dweight is not None:
                dweight.mul_(upstream)
        if ctx.shared is not None:
            ctx.shared.value, dweight = dweight, None
        return dhidden, dweight, None, None, None


def cross_entropy_(logits: Tensor, targets: Tensor) -> Tensor:
    """The summed cross-entropy of logits, which are overwritten by softmax - onehot, its gradient.

    Args:
        logits: (rows, vocabulary); they are changed in place.
        targets: (rows,), token ids.

    Returns:
        A scalar in float32, or float64 where the logits are.
    """
    return -log_likelihoods_(logits, targets).sum()


def log_likelihoods_(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax(z)[target] of each row of logits, which are overwritten by softmax - onehot.

    Narrow logits are computed with in float32, a few rows at a time. log sum exp z needs no pass of its own: the
    largest softmax is exp(max z) over that sum, so the logarithm is max z - log(max softmax).

    Args:
        logits: (rows, vocabulary); they are changed in place.
        targets: (rows,), token ids.

    Returns:
        (rows,) in float32, or float64 where the logits are.
    """
    rows, wide_dtype = max(1, CACHED_ELEMENTS // logits.shape[1]), _wide(logits.dtype)
    scratch = None if wide_dtype == logits.dtype else logits.new_empty(rows, logits.shape[1], dtype=wide_dtype)
    log_likelihoods = []
    for part, target in zip(logits.split(rows), targets.split(rows), strict=True):
        wide = part if scratch is None else scratch[: len(part)].copy_(part)
        row = torch.arange(len(part))
        largest, chosen = wide.amax(1), wide[row, target]
        torch.softmax(wide, dim=1, out=wide)
        log_likelihood = chosen - (largest - wide.amax(1).log())
        if scratch is not None:
            part.copy_(wide)
        part[row, target] = log_likelihood.expm1().to(part.dtype)  # p - 1, exact also where p is nearly 1
        log_likelihoods.append(log_likelihood)
    return torch.cat(log_likelihoods)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def token_log_probs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """log softmax(W h)[target] of each row, in nats, without ever holding all logits.

    A preference loss weighs each response's tokens by a factor g that is known only after all of them are summed. With
    p = softmax(W h) and e the one-hot vector of the target, the gradients are

        dh = g W^T (e - p),        dW = g (e - p) h^T

    dh is linear in g, so everything but g is computed in the forward pass, where the logits are at hand. A frozen W, as
    under LoRA, needs nothing else, and its backward pass is one product by g. For a trained W the logits are made anew.
    Checked against `token_log_probs_plain` in tests/models/test_fused_loss.py.

    Args:
        hidden: (rows, width).
        weight: (vocabulary, width), of the output layer.
        targets: (rows,), token ids, all of them real.

    Returns:
        (rows,) in float32, or float64 where the rows are.
    """
    if can_fuse(hidden) and len(hidden):
        return _TokenLogProbs.apply(hidden, weight, targets)
    if torch.is_grad_enabled() or not len(hidden):
        return token_log_probs_plain(hidden, weight, targets)
    # A reference's pass, without gradients: the same arithmetic as above on a CPU, so that a policy that has not moved
    # yet has the reference's values to the last bit.
    plain = hidden.device.type != "cpu" or torch.is_autocast_enabled("cpu")
    rows, found = _rows_at_once(hidden, weight), []
    for h, target in zip(hidden.split(rows), targets.split(rows), strict=True):
        found.append(
            token_log_probs_plain(h, weight, target) if plain else log_likelihoods_(onednn.times(h, weight.T), target)
        )
    return torch.cat(found)


def token_log_probs_plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The same with all logits at once.

    Args:
        hidden: (rows, width).
        weight: (vocabulary, width).
        targets: (rows,), token ids.

    Returns:
        (rows,).
    """
    logits = F.linear(hidden, weight)
    return -F.cross_entropy(logits.to(_wide(logits.dtype)), targets, reduction="none")


def _rows_at_once(hidden: Tensor, weight: Tensor) -> int:
    """So many rows that their logits take `BYTES_AT_ONCE`."""
    return max(1, BYTES_AT_ONCE // (len(weight) * hidden.element_size()))


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        dhidden, found = torch.empty_like(hidden), []
        rows = _rows_at_once(hidden, weight)
        for start in range(0, len(hidden), rows):
            logits = onednn.times(hidden[start : start + rows], weight.T)  # (rows, vocabulary)
            found.append(log_likelihoods_(logits, targets[start : start + rows]))  # the logits are p - e now
            dhidden[start : start + rows] = onednn.times(logits, weight).neg_()  # W^T (e - p)
            del logits  # its memory serves the next piece's
        ctx.want_weight = ctx.needs_input_grad[1]
        ctx.save_for_backward(dhidden, *((hidden, weight, targets) if ctx.want_weight else ()))
        return torch.cat(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor | None, None]:
        dhidden, *kept = ctx.saved_tensors
        factors = upstream.to(dhidden.dtype)[:, None]  # (rows, 1): g
        dweight = None
        if ctx.want_weight:
            hidden, weight, targets = kept
            dweight, rows = torch.zeros_like(weight), _rows_at_once(hidden, weight)
            for start in range(0, len(hidden), rows):
                h = hidden[start : start + rows]
                logits = onednn.times(h, weight.T)
                log_likelihoods_(logits, targets[start : start + rows])
                dweight.addmm_(logits.T, h * factors[start : start + rows], alpha=-1)
        return dhidden * factors, dweight, None
