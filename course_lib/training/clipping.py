"""Gradient clipping by the norm of all gradients together (Pascanu et al. 2013, arXiv:1211.5063, algorithm 1).

torch's `clip_grad_norm_` computes the norm in the gradients' own dtype and, on a CPU, adds the squares of a tensor one
after another. Two things go wrong (torch 2.13; findings/ has a script for each): the norm of a large float32 tensor
comes out too small (by 0.16 % for SmolLM2's embedding, by a third for 300 million entries), and a float16 norm above
65,504 is infinite, which sets all gradients to zero. Here pieces of a million entries are summed in float32, and then
their norms. Checked against float64 and, on small models, against torch's in tests/training/test_clipping.py.
"""

from collections.abc import Sequence

import torch
from torch import nn

PIECE = 2**20  # entries: few enough for a plain float32 sum to be right to 1e-5


def clip_grad_norm(parameters: Sequence[nn.Parameter], max_norm: float) -> torch.Tensor:
    """Scale all gradients together, in place, so that their common norm is at most `max_norm`.

    Args:
        parameters: those without a gradient are passed over.
        max_norm: above 0.

    Returns:
        The norm before, a float32 scalar. Where it is not finite, the gradients are left as they are.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if any(hasattr(gradient, "full_tensor") for gradient in gradients):  # sharded: torch gathers what is needed
        return nn.utils.clip_grad_norm_(parameters, max_norm)
    norm = gradient_norm(gradients)
    # One factor for all gradients: the step keeps its direction and only becomes shorter.
    factor = max_norm / (norm + 1e-6)  # torch's guard against a norm of zero
    if norm.isfinite() and factor < 1:
        torch._foreach_mul_(gradients, factor.item())  # one call for all tensors, in place
    return norm


def gradient_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The Euclidean norm of all entries of all gradients, a float32 scalar.

    The norm of several pieces together is the norm of their norms: sqrt(a^2 + b^2 + ...).
    """
    if not gradients:
        return torch.zeros(())
    norms = [
        torch.linalg.vector_norm(piece, dtype=torch.promote_types(gradient.dtype, torch.float32)).float()
        for gradient in gradients
        for piece in gradient.detach().flatten().split(PIECE)  # a view, where the gradient is contiguous
    ]
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
