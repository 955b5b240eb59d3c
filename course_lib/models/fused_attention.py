"""Causal attention over short rows with its gradient written by hand, rotary positions included.

torch's `scaled_dot_product_attention` never stores the (time, time) weights, which pays for long rows. For short ones
they are small, and its backward pass is slow on CPUs: in bfloat16 a row of 64 tokens takes it five times as long as the
formula written out. This module is that formula. tests/models/test_fused.py compares both.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from course_lib.models.fused import can_fuse
from course_lib.rounding import ceil_div

# The longest rows that this form is faster for on a CPU, measured with one to four rows of 9 heads of 64.
LONGEST = {torch.float32: 128, torch.float64: 128, torch.bfloat16: 192}
KEYS_AT_ONCE = 16  # softmax takes rows of a multiple of this length two to three times as fast as others


def can_attend(q: Tensor) -> bool:
    """Whether `rotate_and_attend` is for queries like these (batch, time, ...): short rows on a CPU, in training."""
    return can_fuse(q) and q.shape[1] <= LONGEST[q.dtype]


def rotate_and_attend(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, attention_mask: Tensor | None, head_dim: int
) -> Tensor:
    """softmax(R q (R k)^T / sqrt(head_dim) + mask) v in every head, R turning by the position (RoPE).

    With S the scores before the softmax, P = softmax(S) and o = P v, the gradient is

        dv = P^T do,    dP = do v^T,    dS = P * (dP - rowsum(P * dP)),    dq = R^T dS (R k) / sqrt(head_dim)

    and dk like dq with the queries. R^T turns back: it is R with -sin. Where g query heads share one head of keys,
    their rows are put one below the other, so that each product serves the whole group.

    Args:
        q: (batch, time, heads * head_dim).
        k: (batch, time, kv_heads * head_dim).
        v: like k.
        cos: (batch or 1, 1, time, head_dim), from `rope`.
        sin: like cos.
        attention_mask: True where query i may see key j, (batch or 1, 1, time, time), or None for all up to itself.
        head_dim: the width of one head.

    Returns:
        (batch, time, heads * head_dim).
    """
    return _RotateAndAttend.apply(q, k, v, cos, sin, attention_mask, head_dim)


class _RotateAndAttend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor,
        sin: Tensor,
        attention_mask: Tensor | None,
        head_dim: int,
    ) -> Tensor:
        batch, time, width = q.shape
        kv_heads, group = k.shape[-1] // head_dim, width // k.shape[-1]
        # The row's keys, and up to the next multiple some that nobody sees.
        keys = ceil_div(time, KEYS_AT_ONCE) * KEYS_AT_ONCE
        sin = sin[..., : head_dim // 2].contiguous()  # the table's second half repeats the first
        q, k, v = (x.view(batch, time, -1, head_dim).transpose(1, 2) for x in (q, k, v))  # (B, heads, T, D)
        turned_q, padded_k = q.new_empty(q.shape), k.new_zeros(batch, kv_heads, keys, head_dim)
        padded_v = torch.zeros_like(padded_k)
        turn(q, cos, sin, out=turned_q)
        turn(k, cos, sin, out=padded_k[:, :, :time])
        padded_v[:, :, :time] = v
        q = turned_q.view(batch * kv_heads, group * time, head_dim)  # (B * K, group * T, D)
        k, v = padded_k.flatten(0, 1), padded_v.flatten(0, 1)  # (B * K, keys, D)

        bias = bias_of(attention_mask, batch, kv_heads, group, time, keys, q.dtype)
        scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=1 / math.sqrt(head_dim))  # (B * K, group * T, keys)
        weights = torch.softmax(scores, dim=-1, out=scores)
        ctx.save_for_backward(q, k, v, weights, cos, sin)
        mixed = torch.bmm(weights, v).view(batch, -1, time, head_dim)  # (B, heads, T, D)
        return mixed.transpose(1, 2).reshape(batch, time, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, cos, sin = ctx.saved_tensors
        (batch, time, _), head_dim = do.shape, q.shape[-1]
        do = do.view(batch, time, -1, head_dim).transpose(1, 2).reshape(q.shape)  # (B * K, group * T, D)
        # The products also sum dv and dk over the query heads of a group, whose rows stand one below the other.
        dv = torch.bmm(weights.transpose(1, 2), do)  # (B * K, keys, D)
        dweights = torch.bmm(do, v.transpose(1, 2))  # (B * K, group * T, keys)
        dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)  # (B * K, group * T, keys)
        dturned_q, dturned_k = torch.bmm(dscores, k), torch.bmm(dscores.transpose(1, 2), q)
        # Turn back, and put 1 / sqrt(head_dim) into the small tables instead of over the scores.
        cos, sin = cos / math.sqrt(head_dim), sin / -math.sqrt(head_dim)
        dturned_q = dturned_q.view(batch, -1, time, head_dim)
        dturned_k, dv = (x.view(batch, -1, *x.shape[1:])[:, :, :time] for x in (dturned_k, dv))  # (B, K, T, D)
        # Laid out as (B, T, heads, D), where the projections' gradients look for them.
        dq, dk = (x.new_empty(batch, time, x.shape[1], head_dim) for x in (dturned_q, dturned_k))
        turn(dturned_q, cos, sin, out=dq.transpose(1, 2))
        turn(dturned_k, cos, sin, out=dk.transpose(1, 2))
        return dq.flatten(2), dk.flatten(2), dv.transpose(1, 2).flatten(2), None, None, None, None


def turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Rotate x as `attention.rotate` does, into `out`, without arrays in between.

    Args:
        x: (batch, heads, time, head_dim).
        cos: (batch or 1, 1, time, head_dim).
        sin: (batch or 1, 1, time, head_dim / 2): once for each pair.
        out: receives the result, (batch, heads, time, head_dim).
    """
    (a, b), (turned_a, turned_b) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(x, cos, out=out)
    turned_a.addcmul_(b, sin, value=-1)
    turned_b.addcmul_(a, sin)


def bias_of(
    mask: Tensor | None, batch: int, kv_heads: int, group: int, time: int, keys: int, dtype: torch.dtype
) -> Tensor:
    """What is added to the scores: 0 where a key may be seen, -inf elsewhere.

    Args:
        mask: True where query i may see key j, (batch or 1, 1, time, time), or None for all up to itself.
        batch: rows.
        kv_heads: heads of keys and values.
        group: query heads that share one of them.
        time: tokens in each row.
        keys: `time`, rounded up to a multiple of KEYS_AT_ONCE.
        dtype: of the scores.

    Returns:
        (batch * kv_heads, group * time, keys), or (group * time, keys) without a mask.
    """
    if mask is None:
        return _causal_bias(group, time, keys, dtype)
    bias = torch.full((batch, kv_heads * group, time, keys), -torch.inf, dtype=dtype)
    bias[..., :time].masked_fill_(mask, 0.0)
    return bias.view(batch * kv_heads, group * time, keys)


@lru_cache(maxsize=8)
def _causal_bias(group: int, time: int, keys: int, dtype: torch.dtype) -> Tensor:
    return torch.full((time, keys), -torch.inf, dtype=dtype).triu(1).repeat(group, 1)
