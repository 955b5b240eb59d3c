"""One decoding step of a prepared model as one compiled function.

torch.compile fuses the operations between the products into a few kernels, and Python makes one call for each token
instead of about six hundred. The shapes must not change. So the step attends to the whole capacity of the static cache,
with -inf where it is not filled, and the capacity is rounded up so that few different ones occur. Each shape is
compiled once, which takes one to three minutes for SmolLM2's thirty layers.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.inference.caches import StaticCache

if TYPE_CHECKING:
    from course_lib.inference.prepared import PreparedDecoder


class CompiledStep:
    """A compiled step of one token per row, for a model from `prepare`.

    Args:
        model: the model to compile.
    """

    def __init__(self, model: "PreparedDecoder"):
        self.model = model
        self.run = torch.compile(self._run, dynamic=False, fullgraph=True)

    def takes(self, time: int, cache: Any) -> bool:
        """Whether the compiled step can do this pass: it needs one new token per row and a static cache with tokens.

        Args:
            time: the number of new tokens per row.
            cache: the cache, or None.
        """
        return time == 1 and type(cache) is StaticCache and cache.get_seq_length() > 0

    def __call__(self, tokens: Tensor, mask: Tensor | None, turns: Tensor, cache: StaticCache) -> Tensor:
        """The logits after one more token.

        Args:
            tokens: (batch, 1).
            mask: 1 for tokens and 0 for padding, (batch, past + 1); None where there is no padding.
            turns: RoPE's complex numbers, (batch, 1, 1, head_dim / 2).
            cache: the cache, whose buffers are written to.

        Returns:
            (batch, vocabulary).
        """
        start = cache.get_seq_length()
        bias = torch.full((len(tokens), 1, 1, cache.capacity), -torch.inf)
        bias[..., : start + 1] = 0.0
        if mask is not None:
            bias[..., : start + 1].masked_fill_(mask[:, None, None] == 0, -torch.inf)
        x = F.embedding(tokens[:, 0], self.model.embedding)  # (B, C)
        logits = self.run(x, torch.view_as_real(turns), bias, torch.tensor([start]), cache.buffers())
        cache.advance(1)
        return logits

    def _run(self, x: Tensor, turns: Tensor, bias: Tensor, place: Tensor, buffers: list[tuple[Tensor, ...]]) -> Tensor:
        """All layers and the head; x is (B, C), turns (B, 1, 1, D / 2, 2), bias (B, 1, 1, capacity)."""
        model = self.model
        batch, width = len(x), model.head_dim
        cos, sin = turns[:, 0, :, :, 0], turns[:, 0, :, :, 1]  # (B, 1, D / 2)
        for layer, (all_keys, all_values) in zip(model.layers, buffers, strict=True):
            projected = layer.q_k_v(_normalise(x, model.norm_floor)).view(batch, -1, width)  # (B, H + 2 K, D)
            pairs = projected[:, : -model.kv_heads].unflatten(-1, (-1, 2))
            a, b = pairs[..., 0], pairs[..., 1]  # (B, H + K, D / 2)
            q_k = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)  # (B, H + K, D)
            all_keys.index_copy_(2, place, q_k[:, model.heads :, None])
            all_values.index_copy_(2, place, projected[:, -model.kv_heads :, None])
            q = q_k[:, : model.heads].reshape(batch, model.kv_heads, -1, width)  # (B, K, H / K, D)
            mixed = F.scaled_dot_product_attention(q, all_keys, all_values, attn_mask=bias)
            x = layer.output.added_to(x, mixed.reshape(batch, -1))
            gate, up = layer.gate_up(_normalise(x, model.norm_floor)).chunk(2, dim=-1)
            x = layer.down.added_to(x, F.silu(gate) * up)
        return model.head(_normalise(x, model.norm_floor))


def _normalise(x: Tensor, floor: Tensor) -> Tensor:
    """As in `prepared`, written so that it fuses into one kernel."""
    return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + floor * floor)
