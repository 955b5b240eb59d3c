"""LoRA in NumPy (Hu et al. 2021, arXiv:2106.09685; level 3 of the fine-tuning exercise).

Fine-tuning changes each weight W by some matrix of the same shape. LoRA trains that change as a product B A of two
narrow matrices: rank (in_features + out_features) numbers in place of in_features * out_features.

Left out: dropout, and biases as targets. Checked against torch in tests/scratch/test_lora.py.
"""

from typing import Any, TypeVar

import numpy as np

from course_lib.scratch.nn import Linear, Module, refuse_other_shapes
from course_lib.scratch.tensor import Tensor

Values = TypeVar("Values", Tensor, np.ndarray)


class LoRALinear(Module):
    """A frozen weight W with a trainable low-rank change beside it: W' = W + (alpha / rank) B A.

    A: (rank, in_features), Kaiming-uniform with a = sqrt(5): uniform in +-1 / sqrt(in_features), as PEFT draws it.
    B: (out_features, rank), zero, so that the layer starts as the base. Were A zero too, neither would get a gradient.

    Args:
        original_weight: W, (out_features, in_features). It is not copied and never written to.
        rank: the inner size of B A.
        alpha: the change is scaled by alpha / rank, so that its size depends little on the rank.
        seed: decides A's start.
        bias: of the layer that this one replaces, frozen.

    Raises:
        ValueError: W does not have two axes, or the rank is not between 1 and W's smaller side.
    """

    def __init__(
        self,
        original_weight: Tensor | np.ndarray,
        rank: int = 4,
        alpha: float = 1.0,
        seed: int = 0,
        bias: Tensor | None = None,
    ):
        weight = original_weight if isinstance(original_weight, Tensor) else Tensor(original_weight)
        if len(weight.shape) != 2:
            raise ValueError(f"original_weight has shape {weight.shape}; a linear layer's has two axes.")
        out_features, in_features = weight.shape
        limit = min(out_features, in_features)
        if not (isinstance(rank, int | np.integer) and 1 <= rank <= limit):
            raise ValueError(
                f"rank {rank!r} is not possible for a {out_features} x {in_features} weight: 1 to {limit}."
            )
        bound = 1 / np.sqrt(in_features)
        start = np.random.default_rng(seed).uniform(-bound, bound, (rank, in_features))
        self.weight, self.bias = weight, bias
        self.A = Tensor(start.astype(weight.dtype), requires_grad=True)
        self.B = Tensor(np.zeros((out_features, rank), weight.dtype), requires_grad=True)
        self.rank, self.alpha, self.scaling = rank, alpha, alpha / rank
        self.merged = False

    @property
    def original_weight(self) -> np.ndarray:
        """The frozen weight's array."""
        return self.weight.data

    def forward(self, x: Values) -> Values:
        """x W^T + (alpha / rank) (x A^T) B^T (+ bias): (..., in_features) -> (..., out_features).

        x is an array or a Tensor, and the result is of the same kind. A merged layer has the change in W already.
        """
        given = x if isinstance(x, Tensor) else Tensor(x)
        if given.shape[-1] != self.weight.shape[1]:
            raise ValueError(f"x has {given.shape[-1]} features and the layer takes {self.weight.shape[1]}.")
        # A single vector becomes one row, because a matrix product needs two axes.
        rows = given if len(given.shape) > 1 else given.reshape(1, -1)
        y = rows @ self.weight.T
        if not self.merged:
            # Through the rank first: (..., in) -> (..., rank) -> (..., out). The full matrix B A is never made.
            y = y + (rows @ self.A.T) @ self.B.T * self.scaling
        if self.bias is not None:
            y = y + self.bias
        if len(given.shape) == 1:
            y = y.reshape(-1)
        return y if isinstance(x, Tensor) else y.data

    def lora_parameters(self) -> list[Tensor]:
        """What is trained: A and B, and nothing else."""
        return [self.A, self.B]

    def merged_weight(self) -> np.ndarray:
        """W + (alpha / rank) B A, shape (out_features, in_features): the layer without the detour."""
        if self.merged:
            return self.weight.data.copy()
        return self.weight.data + (self.scaling * self.B.data @ self.A.data).astype(self.weight.dtype)


class LoRAModel(Module):
    """A model whose target layers are adapted and whose own weights are frozen.

    Args:
        base_model: the model to adapt. `inject_lora` changes it in place.
        target_modules: the last parts of the layers' names, such as ["q_proj", "v_proj"].
        rank: of each adapted layer.
        alpha: of each adapted layer; twice the rank where it is left out.
    """

    def __init__(self, base_model: Module, target_modules: list[str], rank: int = 4, alpha: float | None = None):
        self.base_model: Any = base_model  # a Module, and one that has a loss where ours is asked for
        self.target_modules = target_modules
        self.rank, self.alpha = rank, alpha if alpha is not None else 2.0 * rank
        self.layers: dict[str, LoRALinear] = {}
        self.training = base_model.training

    def inject_lora(self) -> None:
        """Freeze the base and replace each target layer.

        Raises:
            ValueError: a target matches nothing, or LoRA is injected already. Then nothing has changed.
        """
        if self.layers:
            raise ValueError("LoRA is injected already.")
        found = {n: m for n, m in self.base_model.named_modules() if isinstance(m, Linear) and self._is_target(n)}
        if not self.target_modules or isinstance(self.target_modules, str):
            raise ValueError(f"target_modules is {self.target_modules!r}: a list of at least one name.")
        linear = sorted({n.split(".")[-1] for n, m in self.base_model.named_modules() if isinstance(m, Linear)})
        for target in self.target_modules:
            if not any(name.split(".")[-1] == target for name in found):
                raise ValueError(f"No linear layer is named {target!r}; this model has: {', '.join(linear)}.")
        layers = {
            name: LoRALinear(old.weight, self.rank, self.alpha, seed=number, bias=old.bias)
            for number, (name, old) in enumerate(found.items())
        }
        for parameter in self.base_model.parameters():
            parameter.requires_grad = False
        for name, layer in layers.items():
            parent, _, last = name.rpartition(".")
            setattr(dict(self.base_model.named_modules())[parent], last, layer)
        self.layers = layers

    def _is_target(self, name: str) -> bool:
        return name.split(".")[-1] in self.target_modules

    def lora_parameters(self) -> list[Tensor]:
        """A and B of every adapted layer, as an optimiser takes them."""
        return [parameter for layer in self.layers.values() for parameter in layer.lora_parameters()]

    def base_parameters(self) -> list[Tensor]:
        """The frozen parameters of the base."""
        adapters = {id(parameter) for parameter in self.lora_parameters()}
        return [parameter for parameter in self.base_model.parameters() if id(parameter) not in adapters]

    def trainable_percentage(self) -> float:
        """Trained parameters in percent of all, the adapter's own included."""
        trained, frozen = (sum(p.size for p in ps) for ps in (self.lora_parameters(), self.base_parameters()))
        return 100 * trained / (trained + frozen)

    # The rest of what a model has (parameters, train, eval, ...) is a Module's.

    def forward(self, ids: np.ndarray) -> Tensor:
        """The base model's logits, through the adapted layers."""
        return self.base_model(ids)

    def loss(self, ids: np.ndarray, labels: np.ndarray) -> Tensor:
        """The base model's loss, through the adapted layers.

        Args:
            ids: integers (batch, time).
            labels: integers (batch, time), -100 where a token is not trained.

        Returns:
            A scalar, in nats per token.
        """
        return self.base_model.loss(ids, labels)

    @property
    def rng(self) -> np.random.Generator:
        """The generator that the base's dropout draws from; a checkpoint keeps its state."""
        return self.base_model.rng

    def adapter(self) -> dict[str, np.ndarray]:
        """The adapter alone: A and B by layer, copied. It takes a few kilobytes to keep, share and swap."""
        return {name: tensor.data.copy() for name, tensor in self._matrices().items()}

    def _matrices(self) -> dict[str, Tensor]:
        """The trained tensors themselves, by the names "LAYER.A" and "LAYER.B"."""
        found: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            found |= {f"{name}.A": layer.A, f"{name}.B": layer.B}
        return found

    def load_adapter(self, adapter: dict[str, np.ndarray]) -> None:
        """Swap another adapter in.

        Raises:
            ValueError: it does not fit, or one is merged into the base. Then nothing has changed.
        """
        if any(layer.merged for layer in self.layers.values()):
            raise ValueError("An adapter is merged into the base: unmerge it before loading another.")
        own = self._matrices()
        refuse_other_shapes(own, adapter, "This adapter does not fit")
        for name, tensor in own.items():
            tensor.data = np.array(adapter[name], dtype=tensor.dtype)
