"""Parts of the decoder with gradients written by hand: fewer passes over memory, and less kept for the backward pass.

Autograd takes a formula operation by operation. For each one it keeps what the backward pass will need, and each one
reads and writes whole arrays. Written by hand, a part keeps its inputs alone, computes the rest again where that is
cheap, and adds gradients where they belong instead of adding arrays up afterwards.

Each part has its formula, its gradient and the shapes in its docstring. Its plain form stands beside it
(`project_plain`, `swiglu_mlp_plain`): read that one first. It also computes whatever the fast form is not made for (see
`can_fuse`). tests/models/test_fused.py compares both forms, and the gradients with finite differences.
Left out: second derivatives, and GPUs, which have kernels of their own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from course_lib.models import onednn
from course_lib.models.factors import Factors, factors_of, has_hooks, regrouped
from course_lib.models.fused_norm import rms_norm_again, rms_norm_backward, rms_norm_forward

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
_enabled = True


@contextmanager
def plain_operations() -> Iterator[None]:
    """Inside `with plain_operations():` every part is computed in its plain form, by autograd.

    It serves second derivatives, which the gradients written by hand do not have, and comparisons of both forms.
    """
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def can_fuse(x: Tensor) -> bool:
    """Whether the parts below work on x: on a CPU, while gradients are recorded, in a dtype of `DTYPES`.

    Autocast chooses dtypes operation by operation and torch.compile writes its own kernels: both get the plain form.
    """
    return x.dtype in DTYPES and torch.is_grad_enabled() and _undisturbed(x)


def can_project(x: Tensor) -> bool:
    """Whether `project` and `swiglu_mlp` work on x. Inside `onednn.fast_products` they also serve a pass without
    gradients, which so gives the same as one with gradients, to the last bit."""
    return can_fuse(x) or (x.dtype == torch.float32 and _undisturbed(x) and onednn.is_wanted())


def _undisturbed(x: Tensor) -> bool:
    return (
        _enabled
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _all_factors(x: Tensor, layers: Sequence[nn.Module], norm: nn.Module | None) -> list[Factors] | None:
    """The layers' tensors, or None where x, the norm or one of the layers asks for the plain form."""
    if not can_project(x) or (norm is not None and (type(norm) is not nn.RMSNorm or has_hooks(norm))):
        return None
    all_factors = [factors for layer in layers if (factors := factors_of(layer)) is not None]
    return all_factors if len(all_factors) == len(layers) else None


# --- norm and projections ------------------------------------------------------------------------------------------
def project(x: Tensor, layers: Sequence[nn.Module], norm: nn.Module | None = None) -> tuple[Tensor, ...]:
    """Every layer's output for one common input: layer(n) with n = norm(x).

    RMSNorm (arXiv:1910.07467, eq. 4) is n = w * z, with r = 1 / sqrt(mean(x^2) + eps) and z = r x in every row. The
    derivative of r is -r^3 x / width. With g = dn * w the gradient is therefore

        dx = r (g - z mean(g * z)),    dw = sum over rows of dn * z

    For a layer y = n W^T + b + s (n A^T) B^T, with D = s dy B (rows, rank), it is

        dn = dy W + D A,    dW = dy^T n,    db = sum over rows of dy,    dA = D^T n,    dB = s dy^T (n A^T)

    and for several layers dn is the sum, which the products themselves add up. The backward pass needs x, once for all
    layers, and the narrow n A^T; with neither a norm nor a trained W or A it does not need x. The norm is computed in
    float32 where x is narrower, and adapters in x's dtype: a bfloat16 model rounds A and B, which are float32.

    Args:
        x: (..., in).
        layers: linear layers, adapted ones too.
        norm: what x goes through first, or None. Other norms than nn.RMSNorm get the plain form.

    Returns:
        One tensor (..., out) for each layer.
    """
    all_factors = _all_factors(x, layers, norm)
    if all_factors is None:
        return project_plain(x, layers, norm)
    return project_factors(x, all_factors, cast("nn.RMSNorm | None", norm))  # `_all_factors` knows no other norm


def project_plain(x: Tensor, layers: Sequence[nn.Module], norm: nn.Module | None = None) -> tuple[Tensor, ...]:
    """The same as `project`, by calling the modules.

    Args:
        x: as for `project`.
        layers: as for `project`.
        norm: as for `project`.

    Returns:
        The output of each layer, (..., out).
    """
    n = x if norm is None else norm(x)
    return tuple(layer(n) for layer in layers)


def project_factors(x: Tensor, all_factors: Sequence[Factors], norm: nn.RMSNorm | None = None) -> tuple[Tensor, ...]:
    """`project` for layers that are given by their tensors.

    Args:
        x: as for `project`.
        all_factors: the tensors of each layer.
        norm: as for `project`.

    Returns:
        The output of each layer, (..., out).
    """
    weight, eps = (None, None) if norm is None else (norm.weight, norm.eps)
    constants = [factors[4:] for factors in all_factors]
    return _Project.apply(x, weight, eps, constants, *(tensor for factors in all_factors for tensor in factors[:4]))


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm_weight: Tensor | None, eps: Any, constants: list[tuple], *tensors: Any
    ) -> tuple[Tensor, ...]:
        ctx.constants, ctx.shape = constants, x.shape
        n, r = x.reshape(-1, x.shape[-1]), None  # (rows, in)
        kept = n if norm_weight is not None or any_matrix(ctx.needs_input_grad[4:]) else None
        if norm_weight is not None:
            n, r = rms_norm_forward(n, norm_weight, eps)
        ys, down = linear_forward(n, regrouped(tensors, constants))
        ctx.save_for_backward(kept, norm_weight, r, down, *tensors)
        return tuple(y.view(*x.shape[:-1], -1) for y in ys)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, r, down, *tensors = ctx.saved_tensors
        want_x, want_norm, _, _, *wanted = ctx.needs_input_grad
        rows = [dy.reshape(-1, dy.shape[-1]) for dy in dys]  # (rows, out) each
        n, z = x, cast(Tensor, None)  # without a norm, z is not needed
        if norm_weight is not None:
            n, z = rms_norm_again(x, norm_weight, r, any_matrix(wanted))
        dn, gradients = linear_backward(rows, n, down, regrouped(tensors, ctx.constants), want_x or want_norm, wanted)
        dx, dnorm = dn, None
        if norm_weight is not None and dn is not None:
            dx, dnorm = rms_norm_backward(dn, z, r, norm_weight, want_norm)
        dx = dx.view(ctx.shape) if want_x and dx is not None else None
        return dx, dnorm, None, None, *gradients  # one per argument of `forward`


def any_matrix(wanted: Sequence[bool]) -> bool:
    """Whether any layer's W or A is trained: their gradients are products with the input."""
    return any(wanted[0::4]) or any(wanted[2::4])


def linear_forward(x: Tensor, all_factors: Sequence[Factors]) -> tuple[list[Tensor], Tensor | None]:
    """Every layer's output, and the adapters' first products, which the backward pass uses again.

    Args:
        x: (rows, in).
        all_factors: the tensors of each layer.

    Returns:
        The outputs, (rows, out) each, and x A^T of all adapters side by side, (rows, ranks) or None.
    """
    stacked = _stacked([factors.A for factors in all_factors], x.dtype)  # (ranks, in)
    down = None if stacked is None else x @ stacked.T
    ys, start = [], 0
    for factors in all_factors:
        y = onednn.project(x, factors.matrix(x.dtype), factors.bias)  # (rows, out)
        if factors.A is not None and factors.B is not None and down is not None:
            stop = start + len(factors.A)
            y.addmm_(down[:, start:stop], factors.B.to(x.dtype).T, alpha=factors.scaling)
            start = stop
        ys.append(y)
    return ys, down


def linear_backward(
    dys: Sequence[Tensor],
    x: Tensor | None,
    down: Tensor | None,
    all_factors: Sequence[Factors],
    want_x: bool,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The gradients of `linear_forward`, by the formulas of `project`.

    Args:
        dys: one (rows, out) for each layer.
        x: (rows, in), or None where no W and no A is trained.
        down: x A^T of all adapters, (rows, ranks), as `linear_forward` gave it, or None.
        all_factors: the layers.
        want_x: whether dx is wanted.
        wanted: for each layer in turn, whether the gradients of W, b, A and B are.

    Returns:
        dx, (rows, in) or None, and the gradients of W, b, A and B of each layer in turn, None where not wanted.
    """
    dx: Tensor | None = None
    gradients: list[Tensor | None] = []
    start, inputs = 0, cast(Tensor, x)  # where a gradient needs it, it is there
    # D^T of all adapters, (ranks, rows): this way round it is computed twice as fast.
    narrow = None if down is None else down.new_empty(down.shape[::-1])
    for i, (dy, factors) in enumerate(zip(dys, all_factors, strict=True)):
        want_weight, want_bias, _, want_B = wanted[4 * i : 4 * i + 4]
        if want_x:
            weight = factors.matrix(dy.dtype)
            dx = onednn.times(dy, weight) if dx is None else onednn.add_times(dx, dy, weight)
        dB = None
        if factors.A is not None and factors.B is not None and down is not None and narrow is not None:
            part = slice(start, start + len(factors.A))
            torch.mm(factors.B.to(dy.dtype).T, dy.T, out=narrow[part]).mul_(factors.scaling)
            if want_B:
                dB = (down[:, part].T @ dy).mul_(factors.scaling).T.to(factors.B.dtype)
            start = part.stop
        gradients += [onednn.times(dy.T, inputs) if want_weight else None, dy.sum(0) if want_bias else None, None, dB]
    if narrow is not None:
        stacked = _stacked([factors.A for factors in all_factors], narrow.dtype) if want_x else None
        if dx is not None and stacked is not None:
            dx.addmm_(narrow.T, stacked)
        _put_gradients_of_A(gradients, narrow, inputs, all_factors, wanted)
    return dx, gradients


def _put_gradients_of_A(
    gradients: list[Tensor | None], narrow: Tensor, x: Tensor, all_factors: Sequence[Factors], wanted: Sequence[bool]
) -> None:
    """dA = D^T x for all adapters in one product, put into their places in the list of gradients."""
    if not any(wanted[2::4]):
        return
    dA, start = narrow @ x, 0  # (ranks, in)
    for i, factors in enumerate(all_factors):
        if factors.A is not None:
            stop = start + len(factors.A)
            if wanted[4 * i + 2]:
                gradients[4 * i + 2] = dA[start:stop].to(factors.A.dtype)
            start = stop


def _stacked(matrices: Sequence[Tensor | None], dtype: torch.dtype) -> Tensor | None:
    """The matrices one above the other; None where there is none."""
    found = [matrix.to(dtype) for matrix in matrices if matrix is not None]
    if len(found) > 1:
        return torch.cat(found)
    return found[0] if found else None


# --- the MLP -------------------------------------------------------------------------------------------------------
def swiglu_mlp(
    x: Tensor, gate_layer: nn.Module, up_layer: nn.Module, down_layer: nn.Module, norm: nn.Module | None = None
) -> Tensor:
    """W_down (silu(W_gate n) * W_up n) with n = norm(x) and silu(g) = g sigmoid(g) (arXiv:2002.05202, eq. 6).

    With g and u the outputs of the first two layers, h = silu(g) * u and dh from the last layer as in `project`:

        du = dh * silu(g),    dg = dh * u * silu'(g),    silu'(g) = sigmoid(g) (1 + g (1 - sigmoid(g)))

    and the rest is `project` again. The forward pass keeps x, g and u. Autograd would keep n, silu(g) and h too. Where
    the MLP's inside is three times as wide as its input, that is seven more arrays as wide as the input.

    Args:
        x: (..., in).
        gate_layer: a linear layer, in -> inside.
        up_layer: likewise.
        down_layer: a linear layer, inside -> out.
        norm: what x goes through first, or None.

    Returns:
        (..., out).
    """
    all_factors = _all_factors(x, [gate_layer, up_layer, down_layer], norm)
    if all_factors is None:
        return swiglu_mlp_plain(x, gate_layer, up_layer, down_layer, norm)
    weight, eps = (None, None) if norm is None else (norm.weight, norm.eps)
    constants = [factors[4:] for factors in all_factors]
    return _SwiGLU.apply(x, weight, eps, constants, *(tensor for factors in all_factors for tensor in factors[:4]))


def swiglu_mlp_plain(
    x: Tensor, gate_layer: nn.Module, up_layer: nn.Module, down_layer: nn.Module, norm: nn.Module | None = None
) -> Tensor:
    """The same as `swiglu_mlp`, by calling the modules.

    Args:
        x: as for `swiglu_mlp`.
        gate_layer: as for `swiglu_mlp`.
        up_layer: as for `swiglu_mlp`.
        down_layer: as for `swiglu_mlp`.
        norm: as for `swiglu_mlp`.

    Returns:
        (..., width), as `swiglu_mlp` gives it.
    """
    n = x if norm is None else norm(x)
    return down_layer(F.silu(gate_layer(n)) * up_layer(n))


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm_weight: Tensor | None, eps: Any, constants: list[tuple], *tensors: Any
    ) -> Tensor:
        ctx.constants, ctx.shape = constants, x.shape
        n, r = x.reshape(-1, x.shape[-1]), None  # (rows, in)
        kept = n if norm_weight is not None or any_matrix(ctx.needs_input_grad[4:12]) else None
        if norm_weight is not None:
            n, r = rms_norm_forward(n, norm_weight, eps)
        gate_up, (last,) = regrouped(tensors[:8], constants[:2]), regrouped(tensors[8:], constants[2:])
        (g, u), narrow_in = linear_forward(n, gate_up)  # (rows, inside) each
        (y,), narrow_h = linear_forward(F.silu(g).mul_(u), [last])  # (rows, out)
        ctx.save_for_backward(kept, norm_weight, r, g, u, narrow_in, narrow_h, *tensors)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, r, g, u, narrow_in, narrow_h, *tensors = ctx.saved_tensors
        want_x, want_norm, _, _, *wanted = ctx.needs_input_grad
        want_n, constants = want_x or want_norm, ctx.constants
        activated = F.silu(g)  # (rows, inside), as are h, dh, du and dg
        h = activated * u if any_matrix(wanted[8:]) else None
        dys = [dy.reshape(len(g), -1)]
        dh, last = linear_backward(dys, h, narrow_h, regrouped(tensors[8:], constants[2:]), True, wanted[8:])
        del h  # its memory serves the next arrays
        dh = cast(Tensor, dh)  # it was asked for
        du = activated.mul_(dh)  # in place: silu(g) is not needed again, and dh not after the next line
        dg = torch.ops.aten.silu_backward(dh.mul_(u), g)
        n, z = x, cast(Tensor, None)  # without a norm, z is not needed
        if norm_weight is not None:
            n, z = rms_norm_again(x, norm_weight, r, any_matrix(wanted[:8]))
        gate_up = regrouped(tensors[:8], constants[:2])
        dn, first = linear_backward([dg, du], n, narrow_in, gate_up, want_n, wanted[:8])
        dx, dnorm = dn, None
        if norm_weight is not None and dn is not None:
            dx, dnorm = rms_norm_backward(dn, z, r, norm_weight, want_norm)
        return dx.view(ctx.shape) if want_x and dx is not None else None, dnorm, None, None, *first, *last
