"""Attention: causal, with grouped queries, rotary positions, a cache and learned sinks; its masks and its kernels.

tests/parity/test_decoder.py compares values and gradients with transformers.

Shapes in comments: B is the batch, T the time (tokens in a row), H heads of D, K heads of keys and values.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib.errors import CourseError
from course_lib.models.config import DecoderConfig
from course_lib.models.fused import project
from course_lib.models.fused_attention import can_attend, rotate_and_attend


class Attention(nn.Module):
    """Causal self-attention, softmax(q k^T / sqrt(head_dim)) v in every head (arXiv:1706.03762, eq. 1).

    Grouped queries (arXiv:2305.13245): fewer heads for k and v, each shared by a group of query heads; the cache is
    smaller by that factor. Sinks (arXiv:2309.17453 saw the first tokens serve as such; learned as in gpt-oss,
    arXiv:2508.10925): a logit s for each head joins the softmax, so that a head may attend to nothing:

        weight_j = exp(score_j) / (exp(s) + sum_i exp(score_i))

    Args:
        config: the decoder's shape.
        layer: the block's number, under which a cache keeps its keys and values.
    """

    def __init__(self, config: DecoderConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        width, heads, kv_heads = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
        if config.model_type == "gpt2":
            self.c_attn = nn.Linear(width, 3 * width)  # q, k and v side by side
            self.c_proj = nn.Linear(width, width)
        else:
            self.q_proj = nn.Linear(width, heads * config.head_dim, bias=False)
            self.k_proj = nn.Linear(width, kv_heads * config.head_dim, bias=False)
            self.v_proj = nn.Linear(width, kv_heads * config.head_dim, bias=False)
            self.o_proj = nn.Linear(heads * config.head_dim, width, bias=False)
        self.sinks = nn.Parameter(torch.zeros(heads)) if config.attention_sinks else None

    def forward(
        self,
        x: Tensor,
        attention_mask: Tensor | None = None,
        cos: Tensor | None = None,
        sin: Tensor | None = None,
        cache: Any = None,
        norm: nn.Module | None = None,
    ) -> Tensor:
        """Mix every position with those before it.

        Args:
            x: (batch, time, width).
            attention_mask: as `full_attention_mask` gives it.
            cos: the table of `rope`, or None for GPT-2, whose positions are in x already.
            sin: likewise.
            cache: the keys and values of earlier tokens, or None.
            norm: what x goes through first, or None.

        Returns:
            (batch, time, width).
        """
        # The norm is applied here and not in the block, so that norm and projections can be one fused operation.
        if self.config.model_type == "gpt2":
            output_layer = self.c_proj
            (q_k_v,) = project(x, [self.c_attn], norm)
            q, k, v = q_k_v.chunk(3, dim=-1)  # (B, T, H * D) each
        else:
            output_layer = self.o_proj
            # (B, T, H * D), then twice (B, T, K * D)
            q, k, v = project(x, [self.q_proj, self.k_proj, self.v_proj], norm)

        dropout = self.config.dropout if self.training else 0.0
        # The form with its gradient written by hand knows neither sinks nor dropout nor a cache.
        plain_softmax = self.config.attention == "sdpa" and self.sinks is None and dropout == 0
        if plain_softmax and cos is not None and sin is not None and cache is None and can_attend(q):
            return output_layer(rotate_and_attend(q, k, v, cos, sin, attention_mask, self.config.head_dim))

        # (B, T, heads * D) -> (B, heads, T, D): from here on every head is for itself
        q, k, v = (t.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2) for t in (q, k, v))
        if cos is not None and sin is not None:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)  # (B, K, past + T, D)
        attend = attend_eager if self.config.attention == "eager" else attend_sdpa
        mixed = attend(q, k, v, attention_mask, self.sinks, dropout)  # (B, H, T, D)
        return output_layer(mixed.transpose(1, 2).flatten(2))


def rope(position_ids: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles by which RoPE turns queries and keys (arXiv:2104.09864, eq. 15).

    Pair i of a query or key at position p is turned by p theta^(-2i / head_dim), i < head_dim / 2. After that q . k
    depends on positions through their difference alone.

    Args:
        position_ids: (batch or 1, time).
        head_dim: the width of one head.
        theta: the base of the angles; the slowest pair turns once in about 2 pi theta tokens.

    Returns:
        cos and sin, (batch or 1, 1, time, head_dim) each: the angles of all pairs, twice, for `rotate`.
    """
    # Llama was trained with 1 / theta ** x. theta ** -x is the same number, but rounds differently: with it, SmolLM2's
    # logits for a text of 512 tokens move by up to 5e-5.
    frequencies = 1 / theta ** (torch.arange(0, head_dim, 2, device=position_ids.device).float() / head_dim)  # (D / 2)
    angles = position_ids[:, None, :, None].float() * frequencies  # (B, 1, T, D / 2)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn every pair (a, b) of x to (a cos - b sin, b cos + a sin).

    A pair is number i of the first half and number i of the second, as Llama's files have them.

    Args:
        x: queries or keys, (batch, heads, time, head_dim).
        cos: the table of `rope`, (batch or 1, 1, time, head_dim).
        sin: like cos.

    Returns:
        (batch, heads, time, head_dim).
    """
    a, b = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat([-b, a], dim=-1) * sin.to(x.dtype)


def full_attention_mask(
    attention_mask: Tensor | None, batch: int, time: int, past: int, device: torch.device
) -> Tensor | None:
    """What each query may see.

    A token always sees itself: padding then has something to attend to, where a softmax over nothing would be NaN.

    Args:
        attention_mask: as for Decoder, or None.
        batch: rows.
        time: tokens in each row.
        past: tokens in the cache.
        device: where the mask is to be.

    Returns:
        Boolean (batch or 1, 1, time, past + time), or None for plain causal attention.

    Raises:
        CourseError: The mask has another shape, or a mask for packed rows is not boolean.
    """
    if attention_mask is None:
        return causal_mask(time, past, device) if past else None
    shapes = {2: (batch, past + time), 4: (batch, 1, time, past + time)}
    shape, packed = tuple(attention_mask.shape), attention_mask.dim() == 4
    # Only booleans for packed rows: in a mask that is added to the scores, as some libraries have it, 0 means visible.
    if shape != shapes.get(len(shape)) or (packed and attention_mask.dtype != torch.bool):
        raise CourseError(
            f"attention_mask is {attention_mask.dtype} of shape {shape}; it should be of shape {shapes[2]}, or boolean "
            f"of shape {shapes[4]} for packed rows."
        )
    allowed = attention_mask if packed else attention_mask.bool()[:, None, None]  # (B, 1, T or 1, past + T)
    visible = allowed & causal_mask(time, past, device)  # (B, 1, T, past + T)
    own_position = F.pad(torch.eye(time, dtype=torch.bool, device=device), (past, 0))  # (T, past + T)
    return visible | own_position  # a token always sees itself


def causal_mask(time: int, past: int, device: torch.device) -> Tensor:
    """What each query may see in plain causal attention: the keys up to its own.

    Args:
        time: tokens in the row. The queries are the last `time` of all tokens.
        past: tokens in the cache.
        device: where the mask is to be.

    Returns:
        Boolean (1, 1, time, past + time), True where key <= query.
    """
    return torch.ones(time, past + time, dtype=torch.bool, device=device).tril(past)[None, None]


def attend_eager(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, sinks: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """The formula of `Attention`, step by step.

    Args:
        q: (batch, heads, time, head_dim).
        k: (batch, kv_heads, past + time, head_dim).
        v: like k.
        mask: as `full_attention_mask` gives it.
        sinks: (heads,), or None.
        dropout: the probability with which a weight is dropped.

    Returns:
        (batch, heads, time, head_dim).
    """
    group = q.shape[1] // k.shape[1]
    # Each head of keys and values is repeated for its group of query heads: (B, H, past + T, D).
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    if mask is None:
        mask = causal_mask(q.shape[2], 0, q.device)
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~mask, -torch.inf)  # (B, H, T, past + T)
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(q.dtype).view(1, -1, 1, 1).expand(*q.shape[:3], 1)], dim=-1)
    # A sink takes part in the softmax; its weight is cut off after it, since it has no value to give.
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)[..., : k.shape[2]]
    return F.dropout(weights, dropout) @ v  # (B, H, T, past + T) @ (B, H, past + T, D)


def attend_sdpa(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, sinks: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """The same as `attend_eager` from torch's fused kernels, which do not store the (time, time) weights.

    Args:
        q: (batch, heads, time, head_dim).
        k: (batch, kv_heads, past + time, head_dim).
        v: like k.
        mask: as for `attend_eager`.
        sinks: as for `attend_eager`.
        dropout: as for `attend_eager`.

    Returns:
        (batch, heads, time, head_dim).
    """
    if sinks is not None:
        # A sink is one more key and value, both zero: it scores 0 + s, the s coming in as a bias, and gives nothing.
        mask = causal_mask(q.shape[2], 0, q.device) if mask is None else mask
        bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, -torch.inf)
        sink = sinks.to(q.dtype).view(1, -1, 1, 1).expand(*q.shape[:3], 1)
        mask = torch.cat([bias.expand(*q.shape[:3], -1), sink], dim=-1)
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
    group = q.shape[1] // k.shape[1]
    if group > 1 and mask is not None and q.is_cuda:  # CUDA's fast kernels take a mask or grouped queries, not both
        k, v, group = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1), 1
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, enable_gqa=group > 1
    )
