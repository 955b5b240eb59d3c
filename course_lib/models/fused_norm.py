"""RMSNorm and its gradient, written by hand for `fused`: the formulas are in the docstring of `fused.project`.

tests/models/test_fused.py compares them with autograd's.
"""

from functools import lru_cache

import torch
from torch import Tensor


def rms_norm_forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """n and r of `project`: (rows, width) in x's dtype, and (rows, 1) in float32 or better.

    Args:
        x: (rows, width).
        weight, eps: those of the norm.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    r = torch.addcmul(_scalar(eps, wide.dtype), length, length, value=1 / x.shape[-1]).rsqrt_()
    return (wide * r).mul_(weight).to(x.dtype), r


@lru_cache(maxsize=8)
def _scalar(value: float, dtype: torch.dtype) -> Tensor:
    return torch.tensor(value, dtype=dtype)


def rms_norm_again(x: Tensor, weight: Tensor, r: Tensor, want_n: bool) -> tuple[Tensor | None, Tensor]:
    """n (or None) and z of `project` once more, for the backward pass, (rows, width) each.

    Args:
        x, weight, r: the input and the result of `rms_norm_forward`.
        want_n: whether n is wanted.
    """
    z = x.to(r.dtype) * r
    return (z * weight).to(x.dtype) if want_n else None, z


def rms_norm_backward(
    dn: Tensor, z: Tensor, r: Tensor, weight: Tensor, want_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """dx (rows, width) and dw (width,) or None, by the formulas of `project`.

    Args:
        dn, z, r: of `project`: (rows, width) twice, and (rows, 1).
        weight: that of the norm, (width,).
        want_weight: whether dw is wanted.
    """
    wide = dn.to(z.dtype)
    dweight = (wide * z).sum(0).to(weight.dtype) if want_weight else None
    g = wide * weight  # (rows, width)
    total = torch.linalg.vecdot(g, z)[:, None]  # (rows, 1)
    return g.addcmul_(z, total, value=-1 / z.shape[-1]).mul_(r).to(dn.dtype), dweight
