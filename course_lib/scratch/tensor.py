"""Reverse-mode automatic differentiation over NumPy arrays.

A `Tensor` remembers which tensors it was made from and how to send a gradient back to them; `backward` walks that graph
from the result to its sources (the chain rule, applied once to each node). After Karpathy's micrograd, with arrays for
scalars.

Left out: second derivatives, in-place operations, devices. Checked against central differences and torch in
tests/scratch/test_tensor.py.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

Operand: TypeAlias = "Tensor | np.ndarray | Sequence | float"  # what stands beside a tensor in a formula

_recording = True


@contextmanager
def no_grad() -> Iterator[None]:
    """Operations inside record no graph, which saves memory and time in evaluation and generation."""
    global _recording
    before, _recording = _recording, False
    try:
        yield
    finally:
        _recording = before


class Tensor:
    """An array with a gradient.

    Args:
        data: float32 or float64 values of any shape. Integers become float32.
        requires_grad: whether `backward` is to fill `grad`, an array of the same shape that is None until then.

    Example:
        >>> w = Tensor(3.0, requires_grad=True)
        >>> (w * w + w).backward()
        >>> w.grad.item()
        7.0
    """

    __array_priority__ = 1000  # array * tensor is ours to compute: NumPy's own product would forget the graph

    def __init__(self, data: np.ndarray | Sequence | float, requires_grad: bool = False):
        array = np.asarray(data)
        self.data = array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
        self.requires_grad = requires_grad
        self.grad: np.ndarray | None = None
        # Both describe the operation that made this tensor. A source, such as a weight, has neither.
        self._parents: tuple[Tensor, ...] = ()
        self._send_back: Callable[[np.ndarray], None] | None = None

    # --- what it looks like ---

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self.data.shape

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.data.size

    @property
    def dtype(self) -> np.dtype:
        """The type of the elements: float32 or float64."""
        return self.data.dtype

    def item(self) -> float:
        """The value of a tensor with one element."""
        return self.data.item()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.data, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"Tensor({self.data}{', requires_grad=True' if self.requires_grad else ''})"

    def __len__(self) -> int:
        return len(self.data)

    # --- the graph ---

    @staticmethod
    def result(data: np.ndarray, parents: tuple["Tensor", ...], send_back: Callable[[np.ndarray], None]) -> "Tensor":
        """Make the tensor that an operation returns, and record how it was made.

        Args:
            data: the operation's value.
            parents: the tensors that it was computed from.
            send_back: called with dL/d(result), of the shape of `data`. It adds to the `grad` of those parents that
                want one.

        Returns:
            The result. It is a constant where no parent requires a gradient, or inside `no_grad`.
        """
        out = Tensor(data)
        if _recording and any(parent.requires_grad for parent in parents):
            out.requires_grad, out._parents, out._send_back = True, parents, send_back
        return out

    def accumulate(self, gradient: np.ndarray) -> None:
        """Add to `grad` what one use of this tensor contributes.

        A tensor that is used several times gets one contribution from each use, and the chain rule adds them up. The
        contribution is first summed over the axes that broadcasting added.
        """
        if not self.requires_grad:
            return
        gradient = _unbroadcast(gradient, self.shape)
        self.grad = gradient if self.grad is None else self.grad + gradient

    def backward(self, gradient: np.ndarray | None = None) -> None:
        """Fill `grad` of everything that this tensor was made from and that requires a gradient.

        Args:
            gradient: of some final result with respect to this tensor, of this tensor's shape. It may be left out where
                this tensor is that result and holds a single number; then it is 1.

        Raises:
            ValueError: nothing behind this tensor requires a gradient, or `gradient` is missing and needed.
        """
        if not self.requires_grad:
            raise ValueError("backward() on a tensor that depends on no trained tensor: requires_grad is False.")
        if gradient is None:
            if self.size != 1:
                raise ValueError(f"backward() without a gradient needs a single number, not a shape of {self.shape}.")
            gradient = np.ones_like(self.data)
        self.accumulate(gradient)
        # From the result to its sources: a node's gradient is complete once everything made from it has sent its part.
        for node in reversed(_in_order(self)):
            if node._send_back is not None and node.grad is not None:
                node._send_back(node.grad)
                node.grad = None  # an intermediate result's gradient has done its work

    # --- arithmetic, with broadcasting ---

    def __add__(self, other: Operand) -> "Tensor":
        other = as_tensor(other, self.dtype)

        def send_back(g: np.ndarray) -> None:
            """d(a + b) = da + db: both get the gradient as it is."""
            self.accumulate(g)
            other.accumulate(g)

        return Tensor.result(self.data + other.data, (self, other), send_back)

    def __mul__(self, other: Operand) -> "Tensor":
        other = as_tensor(other, self.dtype)

        def send_back(g: np.ndarray) -> None:
            """d(a b) = b da + a db."""
            self.accumulate(g * other.data)
            other.accumulate(g * self.data)

        return Tensor.result(self.data * other.data, (self, other), send_back)

    def __pow__(self, power: float) -> "Tensor":
        def send_back(g: np.ndarray) -> None:
            """d(a^n) = n a^(n-1) da; the power itself is a constant."""
            self.accumulate(g * power * self.data ** (power - 1))

        return Tensor.result(self.data**power, (self,), send_back)

    def __matmul__(self, other: Operand) -> "Tensor":
        """The matrix product: (..., n, k) @ (..., k, m) -> (..., n, m). The leading axes broadcast."""
        other = as_tensor(other, self.dtype)
        if self.data.ndim < 2 or other.data.ndim < 2:
            raise ValueError(f"A matrix product needs two axes a side, not shapes {self.shape} and {other.shape}.")
        if self.shape[-1] != other.shape[-2]:
            raise ValueError(
                f"A matrix product of shapes {self.shape} and {other.shape}: the inner sizes must be equal."
            )

        def send_back(g: np.ndarray) -> None:
            """C = A B: the gradient is g B^T for A and A^T g for B."""
            if self.requires_grad:
                self.accumulate(g @ other.data.swapaxes(-1, -2))
            if other.requires_grad:
                other.accumulate(_weight_gradient(self.data, g, other.shape))

        return Tensor.result(self.data @ other.data, (self, other), send_back)

    def __neg__(self) -> "Tensor":
        return self * -1.0

    def __sub__(self, other: Operand) -> "Tensor":
        return self + (-as_tensor(other, self.dtype))

    def __truediv__(self, other: Operand) -> "Tensor":
        return self * as_tensor(other, self.dtype) ** -1.0

    __radd__, __rmul__ = __add__, __mul__

    def __rmatmul__(self, other: Operand) -> "Tensor":
        return as_tensor(other, self.dtype) @ self

    def __rsub__(self, other: Operand) -> "Tensor":
        return as_tensor(other, self.dtype) - self

    def __rtruediv__(self, other: Operand) -> "Tensor":
        return as_tensor(other, self.dtype) / self

    # --- functions of each element ---

    def exp(self) -> "Tensor":
        """e to the power of each element, its own derivative."""
        value = np.exp(self.data)
        return Tensor.result(value, (self,), lambda g: self.accumulate(g * value))

    def log(self) -> "Tensor":
        """The natural logarithm; derivative 1 / x."""
        return Tensor.result(np.log(self.data), (self,), lambda g: self.accumulate(g / self.data))

    def tanh(self) -> "Tensor":
        """The hyperbolic tangent; derivative 1 - tanh^2."""
        value = np.tanh(self.data)
        return Tensor.result(value, (self,), lambda g: self.accumulate(g * (1 - value**2)))

    # --- over axes ---

    def sum(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> "Tensor":
        """The sum over one axis, several axes, or all of them.

        Args:
            axis: which axes are summed; None for all.
            keepdims: whether the summed axes stay, with a length of 1.

        Returns:
            The sum, without the summed axes unless `keepdims`.
        """

        def send_back(g: np.ndarray) -> None:
            """d(sum)/d(summand) = 1 for each, so the gradient is repeated along the summed axes."""
            if axis is not None and not keepdims:
                g = np.expand_dims(g, axis)
            self.accumulate(np.broadcast_to(g, self.shape))

        total = self.data.sum(axis=axis, keepdims=True)
        return Tensor.result(total if keepdims else total.squeeze(axis), (self,), send_back)

    def mean(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> "Tensor":
        """The sum over `axis`, divided by how many were summed.

        Args:
            axis: which axes are averaged; None for all.
            keepdims: whether the averaged axes stay, with a length of 1.

        Returns:
            The mean, in the shape that `sum` gives.
        """
        total = self.sum(axis, keepdims)
        return total * (total.size / self.size)  # self.size / total.size elements went into each sum

    # --- shape ---

    def reshape(self, *shape: int) -> "Tensor":
        """The same elements in another shape; one of the sizes may be -1, which NumPy works out."""
        return Tensor.result(self.data.reshape(shape), (self,), lambda g: self.accumulate(g.reshape(self.shape)))

    def transpose(self, first: int = -1, second: int = -2) -> "Tensor":
        """Exchange two axes: (..., n, m) -> (..., m, n) without arguments.

        Args:
            first: one axis.
            second: the other axis.

        Returns:
            The same elements with the two axes exchanged.
        """
        swapped = self.data.swapaxes(first, second)
        return Tensor.result(swapped, (self,), lambda g: self.accumulate(g.swapaxes(first, second)))

    @property
    def T(self) -> "Tensor":
        """`transpose` of the last two axes."""
        return self.transpose()

    def __getitem__(self, index: Any) -> "Tensor":
        """Any NumPy index: slices, integers, arrays of integers (an embedding is `table[ids]`)."""

        def send_back(g: np.ndarray) -> None:
            """Each element's gradient goes back to the place that the element was taken from."""
            whole = np.zeros_like(self.data)
            np.add.at(whole, index, g)  # the same row may have been taken several times
            self.accumulate(whole)

        return Tensor.result(self.data[index], (self,), send_back)


def as_tensor(value: Operand, dtype: type | np.dtype = np.float32) -> Tensor:
    """`value` itself if it is a tensor, else a constant.

    Args:
        value: a tensor, an array, a sequence or a number.
        dtype: the type of the constant. A formula gives its tensor's, so that a number does not widen float32.

    Returns:
        A tensor. A constant does not require a gradient.
    """
    return value if isinstance(value, Tensor) else Tensor(np.asarray(value, dtype=dtype))


def _unbroadcast(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum over the axes along which a value of `shape` was repeated to make the gradient's shape.

    A bias (m,) that is added to (n, m) is used n times. Each use has a gradient, and the bias gets their sum.
    """
    if gradient.shape == shape:
        return gradient
    # NumPy aligns shapes at their last axis, so the axes that broadcasting added stand in front.
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    repeated = tuple(axis for axis, length in enumerate(shape) if length == 1 and gradient.shape[axis] != 1)
    return gradient.sum(axis=repeated, keepdims=True) if repeated else gradient


def _weight_gradient(x: np.ndarray, g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of W in x @ W, which is x^T g.

    A plain matrix W is shared by all batch entries. Folding the leading axes into rows, x (..., n, k) -> (rows, k),
    makes this one product, where `_unbroadcast` would have to sum the products of the entries.
    """
    if len(shape) == 2:
        return x.reshape(-1, x.shape[-1]).T @ g.reshape(-1, g.shape[-1])
    return x.swapaxes(-1, -2) @ g


def _in_order(root: Tensor) -> list[Tensor]:
    """Every tensor behind `root`, each after the tensors it was made from (a topological order).

    The stack replaces recursion, because a graph may be deeper than Python's calls may nest.
    """
    order, seen, stack = [], set(), [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:  # all its parents are in the order already
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((parent, False) for parent in node._parents)
    return order
