"""What a saved adapter does at each of its layers, from its tensors and settings alone (`course adapters info`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from course_lib.adapters.files import PREFIX
from course_lib.adapters.lora import lora_scaling


@dataclass(frozen=True)
class LayerChange:
    """What an adapter does at one layer.

    Attributes:
        shape: the layer's size, "576 x 192" (out x in) for LoRA; empty for a butterfly, which does not say.
        parameters: how many are trained.
        size: of the change: the Frobenius norm of scaling * B A for LoRA, the root mean square of the angles, in
            radians, for a butterfly.
    """

    shape: str
    parameters: int
    size: float


def layer_changes(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, LayerChange]:
    """What an adapter does at each of its layers, by the layer's name and in the order of the blocks.

    Args:
        config: the adapter's settings.
        tensors: its weights, by their names in the file.

    Returns:
        One `LayerChange` for each layer.
    """
    changes = {}
    for key, tensor in tensors.items():
        layer = key.removeprefix(PREFIX)
        if key.endswith(".lora_A.weight"):
            A, B = tensor.float(), tensors[key.replace(".lora_A.", ".lora_B.")].float()
            scaling = lora_scaling(config.get("lora_alpha", 8), config.get("r", 8), config.get("use_rslora", False))
            size = scaling * (B @ A).norm().item()
            shape = f"{B.shape[0]} x {A.shape[1]}"
            changes[layer.removesuffix(".lora_A.weight")] = LayerChange(shape, A.numel() + B.numel(), size)
        elif key.endswith(".butterfly.angles"):
            size = tensor.float().square().mean().sqrt().item()
            changes[layer.removesuffix(".butterfly.angles")] = LayerChange("", tensor.numel(), size)
    in_order = sorted(changes, key=lambda name: [part.zfill(6) for part in name.split(".")])  # block 2 before block 10
    return {name: changes[name] for name in in_order}
