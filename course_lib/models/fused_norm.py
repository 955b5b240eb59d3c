"""RMSNorm and its gradient, written by hand for `fused`: the formulas are in the docstring of `fused.project`.

tests/models/test_fused.py compares them with autograd's.
"""

from functools import lru_cache

import torch
from torch import Tensor


def rms_norm_forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """n and r of `project`: the normed rows, and one over the root mean square of each.

    Args:
        x: (rows, width).
        weight: that of the norm, (width,).
        eps: that of the norm.

    Returns:
        n (rows, width) in x's dtype, and r (rows, 1) in float32 or better.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    r = torch.addcmul(_scalar(eps, wide.dtype), length, length, value=1 / x.shape[-1]).rsqrt_()
    return (wide * r).mul_(weight).to(x.dtype), r


@lru_cache(maxsize=8)
def _scalar(value: float, dtype: torch.dtype) -> Tensor:
    return torch.tensor(value, dtype=dtype)


def rms_norm_again(x: Tensor, weight: Tensor, r: Tensor, want_n: bool) -> tuple[Tensor | None, Tensor]:
    """n and z of `project` once more, for the backward pass.

    Args:
        x: what `rms_norm_forward` was given, (rows, width).
        weight: that of the norm, (width,).
        r: what `rms_norm_forward` gave, (rows, 1).
        want_n: whether n is wanted.

    Returns:
        n (or None) and z, (rows, width) each.
    """
    z = x.to(r.dtype) * r
    return (z * weight).to(x.dtype) if want_n else None, z


def rms_norm_backward(
    dn: Tensor, z: Tensor, r: Tensor, weight: Tensor, want_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradients dx and dw, by the formulas of `project`.

    Args:
        dn: the gradient of n, (rows, width).
        z: from `rms_norm_again`, (rows, width).
        r: from `rms_norm_forward`, (rows, 1).
        weight: that of the norm, (width,).
        want_weight: whether dw is wanted.

    Returns:
        dx (rows, width), and dw (width,) or None.
    """
    wide = dn.to(z.dtype)
    dweight = (wide * z).sum(0).to(weight.dtype) if want_weight else None
    g = wide * weight  # (rows, width)
    total = torch.linalg.vecdot(g, z)[:, None]  # (rows, 1)
    return g.addcmul_(z, total, value=-1 / z.shape[-1]).mul_(r).to(dn.dtype), dweight
