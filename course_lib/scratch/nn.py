"""Modules: tensors that are trained, and the layers made of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from course_lib.scratch.functional import embedding, layer_norm
from course_lib.scratch.tensor import Tensor, no_grad


class Module:
    """Something with parameters: it finds those of its attributes that are tensors, modules or lists of modules."""

    training = True
    forward: Callable[..., Any]  # what a subclass computes; each has arguments of its own

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """The modules one level down, as pairs such as ("blocks.0", module)."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, list):
                yield from ((f"{name}.{i}", item) for i, item in enumerate(value) if isinstance(item, Module))

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """This module and all below it, each with its full name."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its full name, in the order of definition. One that two modules share comes once."""
        seen = set()
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Tensor) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{prefix}.{name}" if prefix else name, value

    def parameters(self) -> list[Tensor]:
        """Every parameter once, as an optimiser takes them."""
        return [tensor for _, tensor in self.named_parameters()]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def train(self, mode: bool = True) -> "Module":
        """Switch dropout on (or off) everywhere below."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> "Module":
        """Switch dropout off."""
        return self.train(False)

    def state_dict(self) -> dict[str, np.ndarray]:
        """The parameters' arrays by name; the model's own, not copies."""
        return {name: tensor.data for name, tensor in self.named_parameters()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Copy arrays in by name. ValueError, before anything is changed, where a name or a shape does not fit."""
        own = dict(self.named_parameters())
        refuse_other_shapes(own, state, "This is another model's state")
        for name, tensor in own.items():
            tensor.data = np.array(state[name], dtype=tensor.dtype)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)


class LanguageModel(Protocol):
    """What training and evaluation ask of a model: `GPT` and `LoRAModel` have it, and so may a class of your own."""

    training: bool

    def __call__(self, ids: np.ndarray, /) -> Tensor:
        """Logits (batch, time, vocab_size) of integers (batch, time)."""

    def loss(self, ids: np.ndarray, labels: np.ndarray, /) -> Tensor:
        """The mean loss over the labels that are trained.

        Args:
            ids: integers (batch, time).
            labels: integers (batch, time), -100 where a token is not trained.

        Returns:
            A scalar, in nats per token.
        """

    def parameters(self) -> list[Tensor]:
        """Every parameter once."""

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter once, with its name."""

    def train(self, mode: bool = True, /) -> Any:
        """Switch dropout on or off."""


@contextmanager
def evaluating(model: LanguageModel) -> Iterator[None]:
    """Inside, `model` records no graph and drops nothing out; afterwards it is in the mode that it was in."""
    training = model.training
    model.train(False)
    try:
        with no_grad():
            yield
    finally:
        model.train(training)


def refuse_other_shapes(own: dict, given: dict, complaint: str) -> None:
    """Refuse arrays that do not fit, before any of them is copied.

    Args:
        own: the arrays or tensors that are here, by name.
        given: the ones that came from elsewhere, by name.
        complaint: how the message begins.

    Raises:
        ValueError: an array is on one side only, or has another shape there. The message names the first one.
    """
    for name in sorted(own.keys() | given.keys()):
        ours, theirs = (side[name].shape if name in side else "absent" for side in (own, given))
        if ours != theirs:
            raise ValueError(f"{complaint}: {name} is {theirs} there and {ours} here.")


class Linear(Module):
    """y = x W^T + b.

    The weight is (out_features, in_features) and the bias (out_features,). Both start uniform in
    +-1 / sqrt(in_features), as torch's do, so that the size of y does not depend on how many features are summed.

    Args:
        in_features: the width of x.
        out_features: the width of y.
        bias: whether there is a b.
        rng: draws the start.
        dtype: of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: np.random.Generator,
        dtype: type = np.float32,
    ):
        bound = 1 / np.sqrt(in_features)
        self.weight = _uniform(rng, bound, (out_features, in_features), dtype)
        self.bias = _uniform(rng, bound, (out_features,), dtype) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features). Raises ValueError where x has another width."""
        if x.shape[-1] != self.weight.shape[1]:
            raise ValueError(f"The input has {x.shape[-1]} features and this layer takes {self.weight.shape[1]}.")
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class Embedding(Module):
    """A table of vectors, looked up by id.

    The weight is (rows, width), and starts normal with standard deviation 0.02, as GPT-2's does.

    Args:
        rows: how many ids there are.
        width: the length of a vector.
        rng: draws the start.
        dtype: of the table.
    """

    def __init__(self, rows: int, width: int, *, rng: np.random.Generator, dtype: type = np.float32):
        self.weight = Tensor((0.02 * rng.standard_normal((rows, width))).astype(dtype), requires_grad=True)

    def forward(self, ids: np.ndarray) -> Tensor:
        """Integers (...) -> (..., width)."""
        return embedding(self.weight, ids)


class LayerNorm(Module):
    """Zero mean and unit variance over the last axis, then a learned scale and shift.

    Args:
        width: the length of the last axis.
        dtype: of the scale, which starts at 1, and the shift, which starts at 0.
    """

    def __init__(self, width: int, dtype: type = np.float32):
        self.weight = Tensor(np.ones(width, dtype), requires_grad=True)
        self.bias = Tensor(np.zeros(width, dtype), requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return layer_norm(x, self.weight, self.bias)


def _uniform(rng: np.random.Generator, bound: float, shape: tuple[int, ...], dtype: type) -> Tensor:
    return Tensor(rng.uniform(-bound, bound, shape).astype(dtype), requires_grad=True)
