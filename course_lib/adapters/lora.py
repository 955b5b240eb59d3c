"""LoRA: low-rank adaptation of frozen linear layers (Hu et al. 2021, arXiv:2106.09685).

A layer W (out x in) stays as it was trained; beside it two small matrices learn its change:

    W' = W + (alpha / rank) B A        A: rank x in, B: out x rank

Left out: biases, embeddings and convolutions as targets. Checked against PEFT in tests/parity/test_lora.py.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from course_lib.errors import CourseError


class LoRALinear(nn.Module):
    """A frozen linear layer with a trainable low-rank path beside it (eq. 3 of the paper).

        y = W x + b + (alpha / rank) B A x        x: (..., in), y: (..., out)

    `A` starts Kaiming-uniform and `B` at zero, so that the layer computes W x + b until the first step. Both are
    float32 whatever the base's dtype, as PEFT keeps them: an update of 1e-5 is lost in bfloat16's 8 bits.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0):
        super().__init__()
        limit = min(base.in_features, base.out_features)
        if not 1 <= rank <= limit:
            raise CourseError(
                f"LoRA rank {rank} is not possible for a {base.out_features} x {base.in_features} layer: 1 to {limit}."
            )
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(torch.empty(rank, base.in_features, device=base.weight.device))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))
        # a = sqrt(5) is what nn.Linear and PEFT use: uniform in +-1 / sqrt(in) (He et al. 2015 with that slope).
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.rank, self.alpha, self.scaling = rank, alpha, alpha / rank
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        down = F.linear(self.dropout(x).to(self.A.dtype), self.A)  # (..., rank)
        return self.base(x) + (self.scaling * F.linear(down, self.B)).to(x.dtype)

    def merged_weight(self) -> torch.Tensor:
        """W + (alpha / rank) B A, shape (out, in), in the base's dtype."""
        delta = self.scaling * (self.B @ self.A)
        return (self.base.weight + delta).to(self.base.weight.dtype)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha}"


def inject_lora(
    model: nn.Module, targets: Sequence[str], rank: int = 8, alpha: float = 16.0, dropout: float = 0.0
) -> list[str]:
    """Freeze `model` and wrap each linear layer whose name ends in one of `targets`, in place.

    targets: last parts of module names, as in PEFT's `target_modules`: ["q_proj", "v_proj"].
    Returns the wrapped layers' full names. Raises CourseError where a target matches no linear layer.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[-1] in targets
    }
    if any(lora_layers(model)):
        raise CourseError("This model has LoRA layers already: load a fresh base to inject others.")
    if missing := [target for target in targets if not any(name.split(".")[-1] == target for name in found)]:
        raise CourseError(f"No linear layer is named {missing}; this model has: {', '.join(_linear_names(model))}.")

    model.requires_grad_(False)
    for name, linear in found.items():
        model.set_submodule(name, LoRALinear(linear, rank, alpha, dropout))
    return list(found)


def _linear_names(model: nn.Module) -> list[str]:
    return sorted({name.split(".")[-1] for name, m in model.named_modules() if isinstance(m, nn.Linear)})


def lora_layers(model: nn.Module) -> Iterable[tuple[str, LoRALinear]]:
    """The injected layers, each with its full name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear))


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What the optimiser is given: A and B of each injected layer, nothing else."""
    return [parameter for _, layer in lora_layers(model) for parameter in (layer.A, layer.B)]


def lora_parameter_count(shapes: Iterable[tuple[int, int]], rank: int) -> int:
    """Trainable parameters by the formula: the sum over layers (out, in) of rank * (in + out).

    GPT-2 small, rank 8 on its twelve fused 2304 x 768 projections: 294,912.
    """
    return sum(rank * (in_features + out_features) for out_features, in_features in shapes)
