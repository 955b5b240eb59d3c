"""LoRA: low-rank adaptation of frozen linear layers (Hu et al. 2021, arXiv:2106.09685).

A layer W (out x in) stays as it was trained; beside it two small matrices learn its change:

    W' = W + s B A        A: rank x in, B: out x rank, s = alpha / rank, or alpha / sqrt(rank) for rsLoRA

Several adapters can sit on one base under different names; one of them is active. Left out: biases, embeddings and
convolutions as targets. tests/parity/test_lora.py and tests/parity/test_adapters.py compare all this with PEFT.
"""

import math
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from course_lib.adapters.layers import AdaptedLayer, adapted_layers, refuse_merged
from course_lib.errors import CourseError
from course_lib.models.devices import device_of
from course_lib.models.factors import Factors, factors_of, has_hooks
from course_lib.models.fused import can_project, project_factors
from course_lib.models.linear_layers import layer_sizes, select_layers


def lora_scaling(alpha: float, rank: int, use_rslora: bool = False) -> float:
    """The factor before B A.

    Args:
        alpha: LoRA's alpha.
        rank: LoRA's rank.
        use_rslora: divide by sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732). The entries of B A x grow like
            sqrt(rank) in training, so that dividing by the rank slows large ranks down.

    Returns:
        alpha / rank, or alpha / sqrt(rank).

    Example:
        >>> lora_scaling(16, rank=8), lora_scaling(16, rank=16, use_rslora=True)
        (2.0, 4.0)
    """
    return alpha / (math.sqrt(rank) if use_rslora else rank)


class LowRank(nn.Module):
    """One adapter's path at one layer: x -> scaling * B A dropout(x), x: (..., in), result: (..., out).

    `A` starts Kaiming-uniform and `B` at zero, so that nothing changes until the first step. Both are float32
    whatever the base's dtype, as PEFT keeps them: an update of 1e-5 is lost in bfloat16's 8 bits.

    Args:
        sizes: (out, in) of the layer.
        rank: r, the width of the path.
        alpha: the change is scaled by alpha / rank.
        lora_dropout: the share of x that training drops before A.
        use_rslora: scale by alpha / sqrt(rank) instead (see `lora_scaling`).
        device: where A and B go.

    Raises:
        CourseError: the rank is impossible for the layer, or the dropout is not a probability.
    """

    def __init__(
        self,
        sizes: tuple[int, int],
        rank: int,
        alpha: float,
        lora_dropout: float = 0.0,
        use_rslora: bool = False,
        device: torch.device | None = None,
    ):
        super().__init__()
        check_rank(rank, sizes)
        if not 0 <= lora_dropout < 1:
            raise CourseError(f"LoRA dropout is a probability of at least 0 and below 1, not {lora_dropout}.")
        self.A = nn.Parameter(torch.empty(rank, sizes[1], device=device))
        self.B = nn.Parameter(torch.zeros(sizes[0], rank, device=device))
        # a = sqrt(5) is what nn.Linear and PEFT use: uniform in +-1 / sqrt(in) (He et al. 2015 with that slope).
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.rank, self.alpha, self.use_rslora = rank, alpha, use_rslora
        self.scaling = lora_scaling(alpha, rank, use_rslora)
        self.dropout = nn.Dropout(lora_dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """scaling * B A dropout(x): (..., in) -> (..., out), in A's dtype."""
        down = F.linear(self.dropout(x).to(self.A.dtype), self.A)  # (..., rank)
        # The factor goes onto the rank numbers of `down`, which are far fewer than the out numbers of the result.
        return F.linear(self.scaling * down, self.B)  # (..., out)

    def delta(self) -> torch.Tensor:
        """scaling * B A, (out, in): what merging adds to the weight."""
        return self.scaling * (self.B @ self.A)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha}" + (", use_rslora=True" if self.use_rslora else "")


def check_rank(rank: int, sizes: tuple[int, int]) -> None:
    """Check that 1 <= rank <= min(out, in). A larger rank adds nothing: B A can be any matrix by then.

    Args:
        rank: LoRA's rank.
        sizes: (out, in) of the layer.

    Raises:
        CourseError: the rank is outside.
    """
    if not 1 <= rank <= min(sizes):
        raise CourseError(
            f"LoRA rank {rank} is not possible for a {sizes[0]} x {sizes[1]} layer: choose 1 to {min(sizes)}."
        )


class LoRALinear(AdaptedLayer):
    """A frozen linear layer with trainable low-rank paths beside it (eq. 3 of the paper), one of them active.

        y = W x + b + scaling * B A x        x: (..., in), y: (..., out)

    Args:
        base: nn.Linear, transformers' `Conv1D`, or a quantised layer.
        rank: of the first adapter, as for `LowRank`.
        alpha: as for `LowRank`.
        lora_dropout: as for `LowRank`.
        use_rslora: as for `LowRank`.
        name: the first adapter's name.

    Attributes:
        adapters: the paths by name.
        active: the name in use. A layer that has no adapter of that name computes the base.

    Raises:
        CourseError: as for `LowRank`.

    Example:
        >>> layer = LoRALinear(nn.Linear(8, 4), rank=2, alpha=4)
        >>> [name for name, p in layer.named_parameters() if p.requires_grad]
        ['adapters.default.A', 'adapters.default.B']
        >>> x = torch.ones(3, 8)
        >>> torch.equal(layer(x), layer.base(x))  # B starts at zero
        True
    """

    def __init__(
        self,
        base: nn.Module,
        rank: int,
        alpha: float,
        lora_dropout: float = 0.0,
        use_rslora: bool = False,
        name: str = "default",
    ):
        check_rank(rank, layer_sizes(base))
        super().__init__(base)
        self.adapters = nn.ModuleDict()
        self.add(name, rank, alpha, lora_dropout, use_rslora)

    @property
    def current(self) -> LowRank:
        """The active adapter's path."""
        return cast(LowRank, self.adapters[self.active])  # nn.ModuleDict knows its values as modules only

    # The active adapter's own, so that a layer with one adapter reads like the formula.

    @property
    def A(self) -> nn.Parameter:
        """A of the active adapter, (rank, in)."""
        return self.current.A

    @property
    def B(self) -> nn.Parameter:
        """B of the active adapter, (out, rank)."""
        return self.current.B

    @property
    def scaling(self) -> float:
        """The active adapter's factor before B A. It can be set, to turn the change up or down."""
        return self.current.scaling

    @scaling.setter
    def scaling(self, value: float) -> None:
        self.current.scaling = value

    @property
    def rank(self) -> int:
        """The active adapter's rank."""
        return self.current.rank

    @property
    def alpha(self) -> float:
        """The active adapter's alpha."""
        return self.current.alpha

    @property
    def dropout(self) -> nn.Dropout:
        """The dropout before the active adapter's A."""
        return self.current.dropout

    def add(self, name: str, rank: int, alpha: float, lora_dropout: float = 0.0, use_rslora: bool = False) -> None:
        """Put another path beside the base and make it the active one.

        Args:
            name: the new adapter's name.
            rank: as for `LowRank`.
            alpha: as for `LowRank`.
            lora_dropout: as for `LowRank`.
            use_rslora: as for `LowRank`.
        """
        self.adapters[name] = LowRank(
            layer_sizes(self.base), rank, alpha, lora_dropout, use_rslora, device_of(self.base)
        )
        self.active = name
        self.train(self.base.training)  # a model in evaluation must not get dropout with its adapter

    def adapted(self, x: torch.Tensor) -> torch.Tensor:
        """W x + b + scaling * B A x: (..., in) -> (..., out), in the base's dtype."""
        factors = self.factors() if can_project(x) else None
        if factors is not None:
            return project_factors(x, [factors])[0]  # the same numbers, in one operation of autograd
        y = self.base(x)  # (..., out)
        if self.active not in self.adapters:
            return y
        return y + self.current(x).to(y.dtype)  # the path computes in A's dtype, float32

    def factors(self) -> Factors | None:
        """The tensors that this layer computes with, for `models.fused`; None where it does more, such as dropout."""
        base = factors_of(self.base)
        if base is None or self.merged or not self.enabled or self.active not in self.adapters:
            return base
        path = self.current
        if has_hooks(path) or (path.training and path.dropout.p > 0):
            return None
        return base._replace(A=path.A, B=path.B, scaling=path.scaling)

    def delta(self, name: str | None = None) -> torch.Tensor:
        """scaling * B A of the adapter `name` (default: the active one), (out, in); zero where it is not here."""
        name = name or self.active
        if name not in self.adapters:
            return torch.zeros_like(self.matrix())
        return cast(LowRank, self.adapters[name]).delta()

    def exact_weight(self) -> torch.Tensor:
        """W + scaling * B A in the base's layout, at float32 or better."""
        return self.in_layout(self.matrix() + self.delta())

    def extra_repr(self) -> str:
        return f"active={self.active!r}"


def inject_lora(
    model: nn.Module,
    target_modules: Sequence[str] | str,
    rank: int = 8,
    alpha: float = 16.0,
    lora_dropout: float = 0.0,
    use_rslora: bool = False,
    name: str = "default",
) -> list[str]:
    """Freeze `model` and put a new trainable adapter on each linear layer that `target_modules` means, in place.

    Args:
        model: a transformers model or our decoder. It may hold other adapters, on these layers or on others.
        target_modules: a list of names or ends of names, ["q_proj", "v_proj"], ["c_attn"], or one regular expression
            for whole names (see `matching_layers`).
        rank: r, the width of the path.
        alpha: the change is scaled by alpha / rank.
        lora_dropout: the share of the path's inputs that training drops.
        use_rslora: scale by alpha / sqrt(rank) instead (see `lora_scaling`).
        name: of the adapter, which becomes the active one.

    Returns:
        The full names of the adapted layers.

    Raises:
        CourseError: a target matches no linear layer, the rank is impossible for one, or the name is taken. The model
            is left as it was.

    Example:
        >>> model = nn.ModuleDict({"up": nn.Linear(8, 16), "down": nn.Linear(16, 8)})
        >>> inject_lora(model, ["down"], rank=2)
        ['down']
        >>> sum(p.numel() for p in model.parameters() if p.requires_grad)  # 2 * (16 + 8)
        48
    """
    # Everything is checked before anything is changed, so that an error leaves the model as it was.
    refuse_merged(model)
    if any(not isinstance(layer, LoRALinear) for _, layer in adapted_layers(model)):
        raise CourseError("This model has adapters of another kind already: load a fresh base to inject LoRA.")
    _check_name(model, name)
    layers = select_layers(model, target_modules)
    for layer in layers.values():
        check_rank(rank, layer_sizes(layer))

    model.requires_grad_(False)
    for path, layer in layers.items():
        if isinstance(layer, LoRALinear):
            layer.add(name, rank, alpha, lora_dropout, use_rslora)
        else:
            model.set_submodule(path, LoRALinear(layer, rank, alpha, lora_dropout, use_rslora, name))
    set_adapter(model, name)
    return list(layers)


def _check_name(model: nn.Module, name: str) -> None:
    if name in adapter_names(model):
        raise CourseError(f"This model has a LoRA adapter named {name!r} already: choose another name or a fresh base.")
    if not re.fullmatch(r"[\w-]+", name) or hasattr(nn.ModuleDict(), name):
        raise CourseError(
            f"{name!r} cannot name an adapter: use letters, digits, - and _, and no word that torch reserves."
        )


def adapter_names(model: nn.Module) -> list[str]:
    """The LoRA adapters on `model`, in the order of their injection."""
    return list(dict.fromkeys(chain.from_iterable(layer.adapters for layer in _all_lora(model))))


def set_adapter(model: nn.Module, name: str) -> None:
    """Switch to the adapter `name`: it computes and trains from now on, and the others rest.

    Nothing is loaded or copied.

    Args:
        model: a model with LoRA adapters.
        name: the adapter to use.

    Raises:
        CourseError: no adapter has that name, or one is merged.
    """
    refuse_merged(model)
    if name not in adapter_names(model):
        raise CourseError(f"This model has no LoRA adapter named {name!r}; it has: {adapter_names(model)}.")
    for layer in _all_lora(model):
        layer.active = name
        for key, adapter in layer.adapters.items():
            adapter.requires_grad_(key == name)


def _all_lora(model: nn.Module) -> Iterable[LoRALinear]:
    return (layer for _, layer in adapted_layers(model) if isinstance(layer, LoRALinear))


def lora_layers(model: nn.Module, name: str | None = None) -> Iterable[tuple[str, LoRALinear]]:
    """The layers that hold one adapter, each with its full name.

    Args:
        model: a model with or without adapters.
        name: the adapter (default: the active one).

    Returns:
        Pairs of a full name and its layer, one after the other.
    """
    return (
        (path, layer)
        for path, layer in adapted_layers(model)
        if isinstance(layer, LoRALinear) and (name or layer.active) in layer.adapters
    )


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What the optimiser is given: the active adapter's A and B of each of its layers, nothing else."""
    return [parameter for _, layer in lora_layers(model) for parameter in (layer.A, layer.B)]


def lora_parameter_count(shapes: Iterable[tuple[int, int]], rank: int) -> int:
    """Trainable parameters by the formula: the sum over layers (out, in) of rank * (in + out).

    GPT-2 small with rank 8 on its twelve fused 2304 x 768 projections has 294,912.

    Args:
        shapes: (out, in) of each adapted layer.
        rank: LoRA's rank.

    Returns:
        The number of parameters.

    Example:
        >>> lora_parameter_count([(2304, 768)] * 12, rank=8)  # GPT-2 small
        294912
    """
    return sum(rank * (in_features + out_features) for out_features, in_features in shapes)
