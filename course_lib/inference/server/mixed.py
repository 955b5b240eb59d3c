"""Several LoRA adapters on one base, where each row of a batch has its own adapter.

The A of all adapters, side by side, make one matrix, and their B make another. A mask in between selects the adapter of
each row:

    y = W x + B_all (mask * A_all x)        A_all: (S, in), B_all: (out, S), S the sum of all ranks

The mask is 1 at the ranks of the row's adapter and 0 elsewhere. So a batch takes two products of the same shape for any
number of adapters, and the result of a row does not depend on the adapters of other rows. S-LoRA (arXiv:2311.03285) and
Punica (arXiv:2310.18547) have a kernel that reads only the row's own A and B, which pays off with hundreds of adapters.

The products are those of a prepared model: q, k and v in one, gate and up in one, with the norms' weights folded in.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.adapters.files import load_adapter, readable_config
from course_lib.adapters.layers import adapted_layers
from course_lib.adapters.lora import lora_layers
from course_lib.errors import CourseError
from course_lib.inference.prepared import PreparedDecoder, neighbouring_pairs, prepare

# The layers in each product of a prepared block, in the order of its rows; and the norm before it.
PARTS = {
    "q_k_v": (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "input_layernorm"),
    "output": (("self_attn.o_proj",), None),
    "gate_up": (("mlp.gate_proj", "mlp.up_proj"), "post_attention_layernorm"),
    "down": (("mlp.down_proj",), None),
}
# All ranks are filled up to a multiple of this. MKL's product with 5, 6, 7 or 9, 10, 11 columns adds up the terms of a
# row in an order that depends on the row's place, so that a neighbour's coming and going would change bits.
WHOLE = 16
NOBODY = -2  # whose the ranks are that fill up
TURNED = ("self_attn.q_proj", "self_attn.k_proj")  # whose rows `prepare` reorders, for RoPE


@dataclass(frozen=True)
class Stack:
    """All adapters at one product.

    Attributes:
        A: (in, S), including the weights of the norm.
        B: (S, out), including the scaling.
        owner: the number of the adapter to which each of the S ranks belongs, (S,).
    """

    A: Tensor
    B: Tensor
    owner: Tensor

    def mask(self, adapters: Tensor) -> Tensor:
        """Turn the adapter number of each row, (R,) with -1 for none, into a mask of its ranks, (R, S)."""
        return (adapters[:, None] == self.owner).float()

    def added_to(self, y: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """y + B (mask * A x).

        Args:
            y: (R, out).
            x: (R, in).
            mask: (R, S).

        Returns:
            (R, out).
        """
        return torch.addmm(y, torch.mm(x, self.A) * mask, self.B)


def prepare_mixed(
    model: nn.Module, adapters: Mapping[str, Path | str], weights: str = "float32"
) -> tuple[PreparedDecoder, list[dict[str, Stack]]]:
    """Prepare a base for fast decoding, and stack all adapters beside it.

    Args:
        model: a Llama; the layers of the adapters are put into it and stay there, switched off.
        adapters: the folder of each adapter, by name.
        weights: the format of the base, see `prepare`.

    Returns:
        The base, and for each of its blocks the stacks of those products that an adapter changes.

    Raises:
        CourseError: a folder is not an adapter for this base, or its kind cannot be mixed with others.
    """
    for name, folder in adapters.items():
        kind = readable_config(folder)["peft_type"]
        if kind != "LORA":
            raise CourseError(
                f"The adapter {name} ({folder}) is of type {kind}, and only LoRA adapters can be chosen by request. "
                "Merge it into its base (course merge), and serve the result."
            )
        load_adapter(model, folder, name)
    for _, layer in adapted_layers(model):
        layer.enabled = False
    prepared = prepare(model, weights)
    numbers = {name: number for number, name in enumerate(adapters)}
    plain: Any = model
    stacks = [_stacks_of(block, numbers, prepared.head_dim) for block in plain.model.layers]
    _refuse_other_layers(model, numbers)
    return prepared, stacks


def _refuse_other_layers(model: nn.Module, numbers: Mapping[str, int]) -> None:
    known = tuple(part for parts, _ in PARTS.values() for part in parts)
    for name in numbers:
        for path, _ in lora_layers(model, name):
            if not path.endswith(known):
                raise CourseError(
                    f"The adapter {name} changes {path}, which cannot be chosen by request: only the layers of "
                    "attention and MLP can. Merge it into its base (course merge), and serve the result."
                )


@torch.no_grad()
def _stacks_of(block: Any, numbers: Mapping[str, int], head_dim: int) -> dict[str, Stack]:
    """The stacks of one block by product."""
    stacks = {}
    for product, (parts, norm) in PARTS.items():
        layers = [block.get_submodule(part) for part in parts]
        before = None
        if norm is not None:  # as in `prepared`: the product is given x / norm(x), and the rest is in the matrix
            weight = block.get_submodule(norm).weight.detach().float()  # (in,)
            before = math.sqrt(len(weight)) * weight
        ranks = []
        for place, layer in enumerate(layers):
            head = head_dim if parts[place] in TURNED else None
            for name, number in numbers.items():
                if name in getattr(layer, "adapters", ()):
                    ranks.append(_ranks(layers, place, layer.adapters[name], number, before, head))
        if ranks:
            stacks[product] = _side_by_side(ranks)
    return stacks


def _ranks(
    layers: list[Any], place: int, adapter: Any, number: int, before: Tensor | None, head_dim: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """One adapter at one layer as ranks of the product that the layer is a part of: A (r, in), B (r, out), owner (r,).

    B is zero at the rows of the product's other layers.
    """
    A, B = adapter.A.detach().float(), adapter.scaling * adapter.B.detach().float()  # (r, in) and (own out, r)
    if before is not None:
        A = A * before
    if head_dim is not None:
        B = neighbouring_pairs(B, head_dim)
    sizes = [getattr(layer, "base", layer).out_features for layer in layers]
    wide = B.new_zeros(len(A), sum(sizes))  # (r, out)
    start = sum(sizes[:place])
    wide[:, start : start + sizes[place]] = B.t()
    return A, wide, torch.full((len(A),), number)


def _side_by_side(ranks: list[tuple[Tensor, Tensor, Tensor]]) -> Stack:
    """What `_ranks` gave for several adapters and layers in one stack, filled up to a multiple of `WHOLE`."""
    A, B, owner = (torch.cat(tensors) for tensors in zip(*ranks, strict=True))
    spare = -len(A) % WHOLE
    A = torch.cat([A, A.new_zeros(spare, A.shape[1])])  # (S, in)
    B = torch.cat([B, B.new_zeros(spare, B.shape[1])])  # (S, out)
    owner = torch.cat([owner, owner.new_full((spare,), NOBODY)])  # (S,)
    return Stack(A.t().contiguous(), B, owner)
