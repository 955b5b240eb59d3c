"""Cross-entropy from hidden states: the output layer and the loss in one, so that never all logits exist.

The logits are the largest array of a training step: of 256 tokens and SmolLM2's vocabulary of 49,152 they are 50 MB in
float32, and the plain form makes three more of that size. Here they are made for some rows at a time, turned into their
own gradient in place, multiplied on to the gradients of hidden states and weight, and overwritten by the next rows'.
The idea is that of Liger kernels (arXiv:2410.10989, section 3.2) and of Apple's cut cross-entropy (arXiv:2411.09009).
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from course_lib.models.fused import can_fuse

BYTES_AT_ONCE = 2**26  # of logits: enough rows for a matrix product at full speed (340 of SmolLM2 in float32)
CACHED_ELEMENTS = 2**20  # of logits that are looked at together, small enough for a processor cache


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, scale: float = 1.0) -> Tensor:
    """scale times the sum over rows of -log softmax(W h)[target], in nats.

    With p = softmax(W h) and e the one-hot vector of the target, the gradient of a row is, for logits, h and W,

        dz = scale (p - e),        dh = W^T dz,        dW = dz h^T

    It does not depend on what comes after but for a factor, so it is computed on the way and kept: dh in place of the
    logits. That makes the forward pass dearer and the backward pass free.

    Args:
        hidden: (rows, width).
        weight: (vocabulary, width), of the output layer; with tied embeddings, their table.
        targets: (rows,), token ids, all of them real: rows without a target are left out before.
        scale: a factor, one over the number of targets for a mean.

    Returns:
        A scalar in float32, or float64 where the rows are.
    """
    if can_fuse(hidden):
        return _LinearCrossEntropy.apply(hidden, weight, targets, scale)
    return linear_cross_entropy_plain(hidden, weight, targets, scale)


def linear_cross_entropy_plain(hidden: Tensor, weight: Tensor, targets: Tensor, scale: float = 1.0) -> Tensor:
    """The same in two steps, with all logits."""
    logits = F.linear(hidden, weight)
    return scale * F.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, reduction="sum"
    )


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float) -> Tensor:
        want_weight = ctx.needs_input_grad[1]
        dhidden = torch.empty_like(hidden)
        dweight = torch.empty_like(weight) if want_weight else None
        pieces = max(1, -(-hidden.numel() // hidden.shape[1] * len(weight) * hidden.element_size() // BYTES_AT_ONCE))
        rows = -(-len(hidden) // pieces)
        buffer = hidden.new_empty(rows, len(weight))
        loss = 0.0
        for start in range(0, len(hidden), rows):
            h, target = hidden[start : start + rows], targets[start : start + rows]
            logits = torch.mm(h, weight.T, out=buffer[: len(h)])
            loss += cross_entropy_(logits, target)
            dlogits = logits  # they are p - e now
            out = dhidden[start : start + rows]
            torch.addmm(out, dlogits, weight, beta=0, alpha=scale, out=out)
            if want_weight:
                dweight.addmm_(dlogits.T, h, beta=0 if start == 0 else 1, alpha=scale)
        ctx.gradients = dhidden, dweight
        return scale * loss

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        if ctx.gradients is None:
            raise RuntimeError(
                "The gradient of linear_cross_entropy is gone: it is computed once and then handed over."
            )
        # Handed over and not kept, so that autograd may add to them in place.
        (dhidden, dweight), ctx.gradients = ctx.gradients, None
        if upstream != 1:  # not the last factor after all: a loss scale, or another term's weight
            dhidden.mul_(upstream)
            if dweight is not None:
                dweight.mul_(upstream)
        return dhidden, dweight, None, None


def cross_entropy_(logits: Tensor, targets: Tensor) -> Tensor:
    """The summed cross-entropy of logits (rows, vocabulary), which are overwritten by softmax - onehot, its gradient.

    Narrow logits are turned in float32, a few rows at a time. log sum exp z is not computed for itself: the largest
    softmax is exp(max z) over that sum, so it is max z - log(max softmax).
    """
    rows = max(1, CACHED_ELEMENTS // logits.shape[1])
    wide_dtype = torch.promote_types(logits.dtype, torch.float32)
    scratch = None if wide_dtype == logits.dtype else logits.new_empty(rows, logits.shape[1], dtype=wide_dtype)
    log_likelihood = logits.new_empty(len(logits), 1, dtype=wide_dtype)
    for part, target, found in zip(
        logits.split(rows), targets[:, None].split(rows), log_likelihood.split(rows), strict=True
    ):
        wide = part if scratch is None else scratch[: len(part)].copy_(part)
        chosen, largest = wide.gather(1, target), wide.amax(1, keepdim=True)
        torch.softmax(wide, dim=1, out=wide)
        log_sum = largest - wide.amax(1, keepdim=True).log()
        found.copy_(chosen - log_sum)
        if scratch is not None:
            part.copy_(wide)
        part.scatter_(1, target, found.exp().sub_(1).to(part.dtype))
    return -log_likelihood.sum()
