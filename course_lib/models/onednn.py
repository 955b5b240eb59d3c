"""Matrix products by oneDNN, the library from which torch takes its CPU kernels for bfloat16.

In float32, torch 2.13 calls MKL instead. On AMD's processors that costs much: on an EPYC with AVX-512, the products of
a training step took 2.3 times as long by MKL as by oneDNN, and those of eight rows with a weight that oneDNN had packed
beforehand a third. The two sum in different orders, so their results differ in the last bits.

torch gives oneDNN's product no public name. It is what torch.compile calls for a linear layer.

Shapes: x is (rows, in), the weight is (out, in), the result is (rows, out).
"""

import functools
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

FEWEST_ROWS = 16  # of a result: with fewer, reordering the weight costs more than the product saves
SMALLEST = 2**20  # multiplications: below, the time goes to calling a kernel
_fast = False


@contextmanager
def fast_products() -> Iterator[None]:
    """Inside `with fast_products():` the fused parts of our models multiply by oneDNN where it is faster.

    `course train` and its siblings do. It is not the default, because a chapter compares its numbers with those of
    libraries that call torch, to the last digits: through SmolLM2's thirty layers the order of the sums moves logits of
    about 20 by up to 1e-3, by either library, from what float64 gives.
    """
    global _fast
    before, _fast = _fast, True
    try:
        yield
    finally:
        _fast = before


def is_wanted() -> bool:
    """Whether `fast_products` asks for oneDNN, and it is faster here (see `is_faster`)."""
    return _fast and is_faster()


@functools.cache
def has_onednn() -> bool:
    """Whether torch was built with oneDNN, as it is for Linux and Windows, and may use it."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@functools.cache
def has_bfloat16() -> bool:
    """Whether oneDNN multiplies in bfloat16 on this processor (AVX-512 is needed)."""
    return has_onednn() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@functools.cache
def is_faster() -> bool:
    """Whether oneDNN is faster in float32 than what torch takes: where that is MKL, and the processor is AMD's."""
    if not has_onednn() or not torch.backends.mkl.is_available():
        return False
    try:
        vendor = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        vendor = platform.processor()  # "AMD64 Family 25 Model 1 Stepping 1, AuthenticAMD" on Windows
    return "AuthenticAMD" in vendor


def takes(a: Tensor, columns: int) -> bool:
    """Whether `times` leaves a product to oneDNN: inside `fast_products`, in float32 on a CPU, with enough to do.

    Args:
        a: the left matrix, (rows, inner).
        columns: of the right matrix.

    Returns:
        True where it does.
    """
    large = min(len(a), columns) >= FEWEST_ROWS and a.numel() * columns >= SMALLEST
    return large and a.dtype == torch.float32 and a.device.type == "cpu" and is_wanted()


def times(a: Tensor, b: Tensor) -> Tensor:
    """a b by the faster library, without a record for autograd.

    Args:
        a: (rows, inner).
        b: (inner, columns).

    Returns:
        (rows, columns).
    """
    return linear(a, b.t()) if takes(a, b.shape[1]) else a @ b


def add_times(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total + a b by the faster library; `total` may be overwritten, and has no other use afterwards.

    Args:
        total: (rows, columns).
        a: (rows, inner).
        b: (inner, columns).

    Returns:
        (rows, columns).
    """
    return added(total, a, b.t()) if takes(a, b.shape[1]) else total.addmm_(a, b)


def pack(weight: Tensor) -> Tensor:
    """Reorder a weight as oneDNN reads it fastest; its `to_dense` gives it back.

    Args:
        weight: float32 or bfloat16, (out, in).

    Returns:
        A tensor of the same shape and size whose memory only oneDNN understands.
    """
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b by the faster library, without a record for autograd.

    Args:
        x: (rows, in).
        weight: (out, in).
        bias: (out,), or None.

    Returns:
        (rows, out).
    """
    return linear(x, weight, bias) if takes(x, len(weight)) else F.linear(x, weight, bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b by oneDNN.

    Args:
        x: (rows, in).
        weight: (out, in), packed or not.
        bias: (out,), or None.

    Returns:
        (rows, out).

    Example:
        >>> linear(torch.ones(1, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[3., 7.]])
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def added(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """total + x W^T, in one operation.

    Args:
        total: (rows, out).
        x: (rows, in).
        weight: (out, in), packed or not.

    Returns:
        (rows, out).

    Example:
        >>> added(torch.tensor([[10.0, 10.0]]), torch.ones(1, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[13., 17.]])
    """
    return torch.ops.mkldnn._linear_pointwise.binary(x, total, weight, None, "add")
