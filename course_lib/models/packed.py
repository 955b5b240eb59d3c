"""Weights that bitsandbytes holds in 4 bits, and what keeps them as they are.

tests/models/test_packed.py shows what happens without it.
"""

from typing import Any

from torch import nn


def keep_packed(model: nn.Module) -> None:
    """Forbid bitsandbytes' layers to rewrite their 4-bit weights at the first evaluation.

    On processors with AVX512-BF16 they would pack them, in place, for a kernel that computes in bfloat16 and has no
    backward pass (bitsandbytes 0.50). From then on dequantising and merging give noise, layers below get no gradient,
    and a state_dict may be wrong by 20 %. Without that kernel they compute in evaluation what they compute in training.
    """
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
