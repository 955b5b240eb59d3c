"""Butterfly adapters: a frozen layer whose input is turned by a trained rotation made of plane rotations.

    y = W R x + b,    R = R_0 R_1 ... R_(m-1)

Stage s turns pairs of features at distance 2^s, each pair (i, i + 2^s) in its own plane by its own angle:

    x_i' = cos(t) x_i - sin(t) x_j        x_j' = sin(t) x_i + cos(t) x_j

R is orthogonal whatever the angles: W' = W R keeps the length of each row of W and the angles between rows, which is
the idea of orthogonal fine-tuning (Qiu et al. 2023, arXiv:2306.07280) and its butterfly form BOFT (Liu et al. 2023,
arXiv:2311.06243). At angle 0 the layer is the base, exactly.

BOFT with blocks of b and m factors stores m * in * b numbers for each layer, and one scale for each output. The numbers
are dense b x b blocks, made orthogonal by the Cayley transform; m * in * (b - 1) / 2 of them are free. An angle is such
a block for b = 2, where tan(t / 2) is its one free number: a stage has in / 2 numbers here and 2 * in in BOFT. For
b = 2 and scales of 1 the two are the same matrix (tests/parity/test_adapters.py). PEFT needs BOFT's CUDA extension for
m > 1: without it, PEFT warns and trains a single factor. Its widths must be multiples of b 2^(m - 1): of 768's ten
stages it can have eight.

Left out: BOFT's scales, its dropout, and several adapters on one base.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from course_lib.adapters.layers import AdaptedLayer, adapted_layers
from course_lib.errors import CourseError
from course_lib.models.devices import device_of
from course_lib.models.linear_layers import layer_sizes, select_layers


class ButterflyRotation(nn.Module):
    """R of the module's docstring: width x width, orthogonal, with one trained angle per pair, all 0 at the start.

    Where the block is not a power of two, stage s pairs i with i XOR 2^s as long as both are in the block and leaves
    the others alone: at 768, distances 256 and 512 pair 512 of 768 features. One pass over the distances mixes every
    feature with every other only in a block that is a power of two (768: 8 in 9 entries of R); two passes always do.
    Distances below 256 do not leave blocks of 256, so there block_size=256 and the full width are the same R.

    Args:
        width: features of the input.
        stages: factors, each at twice the distance of the last. After ceil(log2(block_size)) of them the distances
            start again at 1.
        block_size: features are turned only among neighbours in blocks of this size, which must divide the width.
            None makes one block of the full width.
        device: where the angles go.

    Raises:
        CourseError: stages is below 1, or block_size is below 2 or does not divide the width.

    Example:
        >>> rotation = ButterflyRotation(8, stages=3)
        >>> rotation.angles.numel()
        12
        >>> torch.equal(rotation.matrix(), torch.eye(8))  # every angle starts at 0
        True
    """

    partner: torch.Tensor
    slot: torch.Tensor
    sign: torch.Tensor

    def __init__(self, width: int, stages: int, block_size: int | None = None, device: torch.device | None = None):
        super().__init__()
        check_shape(width, stages, block_size)
        self.angles = nn.Parameter(torch.zeros(butterfly_parameter_count(width, stages, block_size), device=device))
        # persistent=False: they follow from the sizes, so that a checkpoint need not hold them
        for name, table in zip(
            ("partner", "slot", "sign"), butterfly_pairs(width, stages, block_size, device), strict=True
        ):
            self.register_buffer(name, table, persistent=False)
        self.stages, self.block_size = stages, block_size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """R x for x (..., width), at float32 or better: the last stage turns the input first."""
        return self._turn(x, range(self.stages)[::-1], direction=1)

    def inverse(self, x: torch.Tensor) -> torch.Tensor:
        """R^T x, which for the rows of W is W R: each stage by minus its angle, in the opposite order."""
        return self._turn(x, range(self.stages), direction=-1)

    def _turn(self, x: torch.Tensor, order: range, direction: int) -> torch.Tensor:
        """The stages of `order` one after the other, each by its angles (direction 1) or minus its angles (-1)."""
        # (stages, width): the angle of each feature's pair, with the sign that its place in the pair gives it. A
        # feature without a partner has sign 0, hence angle 0, and cos(0) = 1 leaves it as it is.
        angle = direction * self.sign * self.angles.float()[self.slot]
        cos, sin = angle.cos(), angle.sin()
        for s in order:
            x = x * cos[s] + x[..., self.partner[s]] * sin[s]
        return x

    def matrix(self) -> torch.Tensor:
        """R itself, (width, width)."""
        return self(torch.eye(self.partner.shape[1], device=self.angles.device)).T

    def extra_repr(self) -> str:
        return f"width={self.partner.shape[1]}, stages={self.stages}, block_size={self.block_size}"


def check_shape(width: int, stages: int, block_size: int | None, layer: str = "the layer") -> None:
    """Check that a butterfly of these sizes can be put on an input of `width` features.

    Args:
        width: features of the layer's input.
        stages: as for `ButterflyRotation`.
        block_size: as for `ButterflyRotation`.
        layer: the layer's name, for the error.

    Raises:
        CourseError: there are no stages, or the block size does not divide the width.
    """
    if stages < 1:
        raise CourseError(f"A butterfly needs at least 1 stage, not {stages}.")
    size = width if block_size is None else block_size
    if size < 2 or width % size:
        raise CourseError(
            f"block_size {size} is not possible for {layer}, whose input has {width} features: give a divisor of at "
            "least 2."
        )


def butterfly_pairs(
    width: int, stages: int, block_size: int | None = None, device: torch.device | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which feature turns with which, at each stage.

    Args:
        width: features of the input.
        stages: as for `ButterflyRotation`.
        block_size: as for `ButterflyRotation`.
        device: where the tables go.

    Returns:
        Three tables of integers, (stages, width) each. partner: the other feature of the pair, or the feature itself
        where it has none. slot: which angle the pair uses. sign: -1 for the pair's first feature, 1 for its second, 0
        for a feature without a partner.
    """
    size = block_size or width
    index = torch.arange(width, device=device)
    within, start = index % size, index - index % size  # a feature's place in its block, and where the block starts
    # i XOR 2^s flips bit s of the place: for the first of a pair that adds 2^s, for the second it takes 2^s away.
    others = torch.stack([within ^ distance for distance in _distances(size, stages)])
    partner = torch.where(others < size, start + others, index)
    sign = (partner < index).int() - (partner > index).int()
    first = (sign < 0).flatten()
    number = (first.cumsum(0) - 1).view_as(partner)  # the firsts are numbered in order; seconds look theirs up
    slot = torch.where(sign > 0, number.gather(1, partner), number) * sign.abs()
    return partner, slot, sign


def butterfly_parameter_count(width: int, stages: int, block_size: int | None = None) -> int:
    """Trained angles by the formula: the pairs at each distance d = 2^s in each of the width / block_size blocks.

    A block of b has (b // 2d) d + max(0, b mod 2d - d) of them, which is b / 2 where 2d divides b. GPT-2's 768
    features have 2,304 angles with 6 stages, 3,072 with 8 stages in blocks of 256, and 3,584 with 10 stages over the
    full width.

    Args:
        width: features of the input.
        stages: as for `ButterflyRotation`.
        block_size: as for `ButterflyRotation`.

    Returns:
        The number of angles.

    Example:
        >>> butterfly_parameter_count(768, stages=10)
        3584
    """
    size = block_size or width
    return width // size * sum(size // (2 * d) * d + max(0, size % (2 * d) - d) for d in _distances(size, stages))


def _distances(size: int, stages: int) -> list[int]:
    """1, 2, 4, ... below the block's size, and from the start again."""
    levels = (size - 1).bit_length()  # ceil(log2(size)): distances 1 ... 2^(levels - 1)
    return [2 ** (s % levels) for s in range(stages)]


class ButterflyLinear(AdaptedLayer):
    """A frozen linear layer (nn.Linear, `Conv1D` or a quantised one) behind a trained rotation of its input.

    y = W R x + b        x: (..., in), y: (..., out). The rotation is computed in float32 whatever the base's dtype.

    Args:
        base: the layer to adapt.
        stages: as for `ButterflyRotation`.
        block_size: as for `ButterflyRotation`.

    Raises:
        CourseError: as for `ButterflyRotation`.
    """

    def __init__(self, base: nn.Module, stages: int, block_size: int | None = None):
        width = layer_sizes(base)[1]
        check_shape(width, stages, block_size)
        super().__init__(base)
        self.rotation = ButterflyRotation(width, stages, block_size, device_of(base))
        self.train(base.training)

    def adapted(self, x: torch.Tensor) -> torch.Tensor:
        """W R x + b: (..., in) -> (..., out)."""
        return self.base(self.rotation(x).to(x.dtype))

    def exact_weight(self) -> torch.Tensor:
        """W R in the base's layout. Each row w of W becomes w R, which as a column is R^T w: `inverse` of the rows."""
        return self.in_layout(self.rotation.inverse(self.matrix()))


def inject_butterfly(
    model: nn.Module, target_modules: Sequence[str] | str, stages: int, block_size: int | None = None
) -> list[str]:
    """Freeze `model` and put a trained rotation before each linear layer that `target_modules` means, in place.

    Args:
        model: a transformers model or our decoder, without adapters.
        target_modules: as for `inject_lora`.
        stages: as for `ButterflyRotation`.
        block_size: as for `ButterflyRotation`.

    Returns:
        The full names of the adapted layers.

    Raises:
        CourseError: a target matches no linear layer, block_size does not divide an input's width, or the model has
            adapters already. The model is left as it was.
    """
    if any(adapted_layers(model)):
        raise CourseError("This model has adapters already: load a fresh base to inject butterflies.")
    layers = select_layers(model, target_modules)
    for name, layer in layers.items():
        check_shape(layer_sizes(layer)[1], stages, block_size, name)

    model.requires_grad_(False)
    for name, layer in layers.items():
        model.set_submodule(name, ButterflyLinear(layer, stages, block_size))
    return list(layers)


def butterfly_layers(model: nn.Module) -> Iterable[tuple[str, ButterflyLinear]]:
    """The injected layers, each with its full name."""
    return ((name, layer) for name, layer in adapted_layers(model) if isinstance(layer, ButterflyLinear))
