"""The weights of `--weights FILE.pt`: a state_dict, held against the model and put into it."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from course_lib.adapters.guide import read_archive
from course_lib.errors import CourseError

# Masks and frequencies that older versions of transformers wrote beside the weights; they are computed now.
COMPUTED = re.compile(r"(\.|^)attn\.(masked_)?bias$|\.rotary_emb\.inv_freq$")
# What torch.compile and DistributedDataParallel put before every name.
WRAPPERS = ("_orig_mod.", "module.")


def read_state_dict(model: nn.Module, path: Path | str) -> dict[str, torch.Tensor]:
    """The tensors of `path` by the names that they have in `model`; no code in the file is run.

    Names may lack the model's own prefix ("h.0.attn.c_attn.weight", as GPT2Model has them) or carry one that
    torch.compile or DistributedDataParallel put there. Tied weights may be in the file once or twice.

    Args:
        model: a transformers model; its names and shapes count, so it may be on the meta device.
        path: what `torch.save(other.state_dict(), path)` wrote.

    Returns:
        A tensor for each of the model's names; tied names share one.

    Raises:
        CourseError: the file cannot be read, or names the first tensor that is missing, too much or of another shape.
    """
    saved = {name: value for name, value in read_archive(path).items() if not COMPUTED.search(str(name))}
    for name, value in saved.items():
        if not isinstance(value, torch.Tensor):
            raise CourseError(
                f"{path} holds {name!r} of type {type(value).__name__}, not a tensor. Save the weights alone: "
                "torch.save(model.state_dict(), FILE)."
            )
    tensors = _renamed(model, saved)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied: dict[str, str] = dict(getattr(model, "all_tied_weights_keys", {}))
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors and (name in tied or name in tied.values()):
            continue  # its twin is there, see below
        here = expected.get(name, "absent")
        there = tuple(tensors[name].shape) if name in tensors else "absent"
        if here != there:
            raise CourseError(f"{path} is not for this model: {name} is {there} in the file and {here} here.")
    for second, first in tied.items():
        _make_one(path, tensors, first, second)
    return tensors


def _renamed(model: nn.Module, saved: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors without a wrapper's prefix, and with the model's own where it is missing."""
    while wrapper := next((each for each in WRAPPERS if saved and all(name.startswith(each) for name in saved)), None):
        saved = {name.removeprefix(wrapper): tensor for name, tensor in saved.items()}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    if any(name.startswith(prefix) for name in saved):
        return saved
    own = {name.removeprefix(prefix) for name in model.state_dict() if name.startswith(prefix)}
    return {(prefix + name if name in own else name): tensor for name, tensor in saved.items()}


def _make_one(path: Path | str, tensors: dict[str, torch.Tensor], first: str, second: str) -> None:
    """Give both names of a tied weight the one tensor that the file has; CourseError where it has none, or two."""
    found = [tensors[name] for name in (first, second) if name in tensors]
    if not found:
        raise CourseError(f"{path} is not for this model: {first} is absent in the file.")
    if len(found) == 2 and not torch.equal(*found):
        raise CourseError(
            f"{path} has two different tensors {first} and {second}, and this model ties them: it can hold only one. "
            "Untie them in the model, or make them equal in the file."
        )
    tensors[first] = tensors[second] = found[0]


def load_state_dict(model: Any, path: Path | str) -> None:
    """Fill a model with the weights of a file.

    Args:
        model: a transformers model, with memory for its weights.
        path: what `torch.save(other.state_dict(), path)` wrote.

    Raises:
        CourseError: the file cannot be read or does not fit the model, see `read_state_dict`.
    """
    model.load_state_dict(read_state_dict(model, path), strict=False)
    if hasattr(model, "tie_weights"):
        model.tie_weights()
