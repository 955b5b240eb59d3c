"""Quantising a whole model to 4 bits: our layers beside bitsandbytes', on the same weights.

The training step of QLoRA is in `steps`, with those of the other methods.
"""

from typing import Any

import torch
from torch import nn

from course_lib.benchmarks.timing import paired
from course_lib.models.twin import twin
from course_lib.quantization import Linear4bit, quantize_model


def quantize_with_bitsandbytes(model: nn.Module, like: nn.Module) -> nn.Module:
    """Replace linear layers by bitsandbytes' in NF4 with doubly quantised constants.

    Args:
        model: whose layers are replaced.
        like: the same model with our 4-bit layers: it says which layers.

    Returns:
        `model`.
    """
    from bitsandbytes import nn as bnb

    layers: Any = bnb  # it lists no public names, and its `to` has a type of its own
    for name, layer in like.named_modules():
        if isinstance(layer, Linear4bit):
            weight = model.get_parameter(f"{name}.weight").data
            peer = layers.Linear4bit(layer.in_features, layer.out_features, bias=False, device="meta")
            packed = layers.Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4")
            peer.weight = packed.to(weight.device)  # moving is what quantises
            model.set_submodule(name, peer)
    return model


def bench_quantize(threads: int, pairs: int, model: str, device: str, dtype: str) -> dict[str, float]:
    """The time that quantising all linear layers of a model takes, ours and bitsandbytes'.

    Args:
        threads: how many threads torch may use.
        pairs: how many pairs are timed, after one to warm up.
        model: a model that `load_decoder` reads, by name or folder.
        device: "cpu", "cuda" or "cuda:N".
        dtype: of the weights before.

    Returns:
        Median times in milliseconds and the median of the pairs' ratios.

    Raises:
        AssertionError: the two sides store different bytes, so their times cannot be compared.
    """
    from course_lib.models.devices import wait_for
    from course_lib.models.huggingface import load_decoder

    torch.set_num_threads(threads)
    decoder = load_decoder(model, dtype).to(device)
    example = quantize_model(twin(decoder), double_quant=True)
    check_equal(example, quantize_with_bitsandbytes(twin(decoder), example))
    wait = wait_for(device)
    times = paired(
        lambda: (quantize_model(twin(decoder), double_quant=True), wait()),
        lambda: (quantize_with_bitsandbytes(twin(decoder), example), wait()),
        pairs,
        warm_up=1,
    )
    ours, theirs = 1e3 * times.ours_s, 1e3 * times.theirs_s
    return {"quantize_ms": ours, "peer_quantize_ms": theirs, "quantize_ratio": times.ratio}


def check_equal(ours: nn.Module, theirs: nn.Module) -> None:
    """Check that both sides store the same bytes.

    Args:
        ours: the model with our 4-bit layers.
        theirs: the model that `quantize_with_bitsandbytes` returned.

    Raises:
        AssertionError: they do not.
    """
    for name, layer in ours.named_modules():
        if isinstance(layer, Linear4bit):
            theirs_packed = theirs.get_parameter(f"{name}.weight").data.flatten()
            if not torch.equal(layer.packed, theirs_packed):
                raise AssertionError(f"{name}: the two sides store different bytes.")
