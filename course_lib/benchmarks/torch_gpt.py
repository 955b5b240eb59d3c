"""The NumPy edition's GPT written with torch's own functions: what it is timed and tested against."""

import torch
from torch.nn import functional as F


def torch_forward(
    weights: dict[str, torch.Tensor], ids: torch.Tensor, heads: int, layers: int, tied: bool = True
) -> torch.Tensor:
    """The forward pass of `course_lib.scratch.GPT` in torch. Both use the tanh approximation of GELU.

    Args:
        weights: by the names that the NumPy edition gives them.
        ids: integers (batch, time).
        heads: attention heads of a block.
        layers: blocks.
        tied: whether the head is the embedding's table.

    Returns:
        Logits (batch, time, vocabulary).
    """

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    batch, time = ids.shape
    x = weights["tokens.weight"][ids] + weights["positions.weight"][torch.arange(time)]  # (batch, time, width)
    for i in range(layers):
        b = f"blocks.{i}"
        h = norm(x, f"{b}.norm1")
        # (batch, time, width) -> (batch, heads, time, width of a head)
        q, k, v = (
            linear(h, f"{b}.attention.{p}_proj").view(batch, time, heads, -1).transpose(1, 2) for p in ("q", "k", "v")
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
        x = x + linear(mixed, f"{b}.attention.out_proj")
        h = F.gelu(linear(norm(x, f"{b}.norm2"), f"{b}.up_proj"), approximate="tanh")
        x = x + linear(h, f"{b}.down_proj")
    return norm(x, "norm") @ (weights["tokens.weight"] if tied else weights["head.weight"]).T
