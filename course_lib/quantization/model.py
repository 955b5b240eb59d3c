"""A whole model in 4 bits, and back: each linear layer is replaced in place.

Embeddings, norms and the head stay as they are. The embedding is looked up and not multiplied, norms are small, and
an error in the head goes straight into the logits. tests/quantization/test_model.py compares with what transformers
makes of a model by bitsandbytes.

Left out: layers that are neither nn.Linear nor transformers' `Conv1D`, such as a mixture of experts' stacked weights.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from course_lib.errors import CourseError
from course_lib.models.linear_layers import name_ends_with
from course_lib.quantization.linear import Linear4bit
from course_lib.quantization.tensor import check_kind


def quantize_model(
    model: Any,
    skip: Sequence[str] = ("lm_head",),
    quant_type: str = "nf4",
    block_size: int = 64,
    double_quant: bool = False,
    compute_dtype: torch.dtype | None = None,
) -> Any:
    """Freeze a model and put a `Linear4bit` in the place of each of its linear layers.

    Where a linear layer's weight is tied to another module's, to the embedding's in many models, it stays too.
    Save the result with `save_quantized`: `save_pretrained` would write tensors under names that transformers does not
    know, and it would load random numbers in their place.

    Args:
        model: what `load_model` returns, or our decoder. An adapter on it stays, and its base is quantised.
        skip: names or ends of names of layers that stay: "lm_head", "mlp.down_proj".
        quant_type: "nf4", "fp4" or "int4".
        block_size: weights that share a constant, a power of two.
        double_quant: quantise the constants as well.
        compute_dtype: as for `Linear4bit`.

    Returns:
        The same model.

    Raises:
        CourseError: it is quantised already, has no layer to quantise, an adapter is merged into it, or a weight is
            NaN or infinite. The model is left as it was, and the error names the layer.
    """
    check_kind(quant_type, block_size)
    layers = quantizable(model, skip)
    made = {}
    for name, layer in layers.items():
        try:
            made[name] = Linear4bit.from_plain(layer, quant_type, block_size, double_quant, compute_dtype)
        except CourseError as error:
            raise CourseError(f"{name}: {error}") from None
    model.requires_grad_(False)
    for name, layer in made.items():
        model.set_submodule(name, layer)
    return model


def quantizable(model: nn.Module, skip: Sequence[str]) -> dict[str, nn.Module]:
    """The layers to quantise by name: the linear ones, but those of `skip` and those that share their weight.

    Args:
        model: as for `quantize_model`; its shapes suffice.
        skip: as for `quantize_model`.

    Returns:
        The layers.

    Raises:
        CourseError: the first reason why the model cannot be quantised.
    """
    if isinstance(skip, str):
        raise CourseError(f"skip={skip!r} is a text: give a list of layers' names, such as [{skip!r}].")
    # A tied weight is one tensor under several names: it is counted once for each of them.
    owners = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    found = {}
    for name, module in model.named_modules():
        if is_quantized(module):
            raise CourseError(f"{name} is quantised already: load the model again, or dequantise it first.")
        if getattr(module, "merged", False):
            raise CourseError(f"An adapter is merged into {name}: unmerge it, or unload it, before quantising.")
        if not isinstance(module, nn.Linear | Conv1D) or any(name_ends_with(name, end) for end in skip):
            continue
        if owners[id(module.weight)] == 1:
            found[name] = module
    if not found:
        raise CourseError(f"{type(model).__name__} has no linear layer to quantise, apart from {list(skip)}.")
    return found


def is_quantized(module: nn.Module) -> bool:
    """Whether a module is a layer with a quantised weight, ours or bitsandbytes'."""
    return isinstance(module, Linear4bit) or getattr(getattr(module, "weight", None), "quant_state", None) is not None


def dequantize_model(model: Any, dtype: torch.dtype | None = None) -> Any:
    """Put a plain layer in the place of each `Linear4bit`, with the dequantised weight. What the model computes stays.

    Args:
        model: as `quantize_model` left it, also with adapters on it.
        dtype: of the weights (default: that of each before quantisation).

    Returns:
        The same model.

    Raises:
        CourseError: no layer is quantised by us.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Linear4bit)}
    if not layers:
        raise CourseError(f"{type(model).__name__} has no layer of quantize_model: there is nothing to dequantise.")
    for name, layer in layers.items():
        model.set_submodule(name, layer.to_plain(dtype))
    return model
