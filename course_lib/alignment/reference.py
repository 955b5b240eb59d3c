"""The reference of a preference run: what the policy may not stray from.

It is the adapter switched off, a frozen copy of the model, or log-probabilities that were computed once and lie in a
file. Three models of the same name, a new line in a template or another limit give other numbers, so the file says what
it was computed from, and one that does not fit is refused rather than used.
"""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from course_lib.adapters.layers import adapted_layers, disable_adapters
from course_lib.alignment.pairs import Pairs, collate_pairs, pair_log_probs
from course_lib.errors import CourseError
from course_lib.models.devices import device_of
from course_lib.models.fingerprint import fingerprint


class Reference(Protocol):
    """It gives the log-probabilities of both responses under the model that training began with."""

    def log_probs(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(chosen, rejected), (pairs,) each, without a gradient."""


class AdapterOff:
    """The same weights without their adapter: the base. It costs one forward pass and no memory.

    That is right where the adapter began as zero. An adapter that was trained before (on instructions, say) is not the
    base when it is switched off: take `FrozenCopy` then, or merge it first.
    """

    def log_probs(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """A forward pass with the adapter off, without dropout.

        Args:
            model: the policy, perhaps wrapped for several processes.
            batch: see `collate_pairs`.

        Returns:
            (chosen, rejected), (pairs,) each.

        Raises:
            CourseError: the model is without an adapter, so that policy and reference would be one.
        """
        if next(iter(adapted_layers(model)), None) is None:
            raise CourseError(
                "The model has no adapter to switch off: take a frozen copy or cached values as reference."
            )
        with torch.no_grad(), evaluating(model), disable_adapters(model):
            return pair_log_probs(model, batch)


class FrozenCopy:
    """A copy of the model as it is now, with the adapter that may be on it.

    It takes the memory of the weights that are trained again: of an adapter little, of a whole model all of it. Weights
    that are frozen, as an adapter's base is, are shared.

    Args:
        model: it is copied at once.
    """

    def __init__(self, model: nn.Module):
        shared = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
        self.model = copy.deepcopy(model, shared).requires_grad_(False).eval()

    def log_probs(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """A forward pass of the copy.

        Args:
            model: the policy, which is not used.
            batch: see `collate_pairs`.

        Returns:
            (chosen, rejected), (pairs,) each.
        """
        with torch.no_grad():
            return pair_log_probs(self.model, batch)


class Cached:
    """Values that `cache_reference` has put into the pairs."""

    def log_probs(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The values that came with the batch.

        Args:
            model: the policy, which is not used.
            batch: see `collate_pairs`; it has "reference".

        Returns:
            (chosen, rejected), (pairs,) each.

        Raises:
            CourseError: the pairs have no such values.
        """
        if "reference" not in batch:
            raise CourseError("The pairs have no cached values of a reference: call cache_reference first.")
        chosen, rejected = batch["reference"].unbind(1)
        return chosen, rejected


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout: a reference that draws is not the same model twice (TRL's is in training mode)."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@torch.no_grad()
def compute_reference(
    model: nn.Module, pairs: Pairs, batch_size: int = 4, pad_token_id: int = 0
) -> tuple[Tensor, dict[str, str]]:
    """The log-probabilities of all pairs under a model, with an adapter on it switched off.

    Args:
        model: the base, or the policy before its first step.
        pairs: from `encode_pairs`.
        batch_size: pairs of a forward pass.
        pad_token_id: fills up shorter rows.

    Returns:
        Float64 (pairs, 2), and what they were computed from, for `save_reference`.
    """
    device, found = device_of(model), []
    with evaluating(model), disable_adapters(model):
        for start in range(0, len(pairs.pairs), batch_size):
            numbers = range(start, min(start + batch_size, len(pairs.pairs)))
            arrays = collate_pairs(pairs.pairs, numbers, pad_token_id)
            batch = {key: torch.as_tensor(value, device=device) for key, value in arrays.items() if key != "reference"}
            found.append(torch.stack(pair_log_probs(model, batch), dim=1).double().cpu())
    return torch.cat(found), reference_key(model, pairs)


def reference_key(model: nn.Module, pairs: Pairs) -> dict[str, str]:
    """What cached values depend on.

    Args:
        model: its weights count, those of an adapter aside.
        pairs: their token ids count, and so do data, template, tokenizer and limit.

    Returns:
        {"model": a fingerprint of the weights, "pairs": one of the token ids}.
    """
    adapters = {id(p) for _, layer in adapted_layers(model) for p in layer.parameters() if p.requires_grad}
    return {"model": fingerprint(p for p in model.parameters() if id(p) not in adapters), "pairs": pairs.fingerprint()}


def save_reference(path: Path, values: Tensor, key: dict[str, str], template: str = "") -> Path:
    """Write log-probabilities of a reference, whole or not at all.

    Args:
        path: a .safetensors file, which is replaced.
        values: float64 (pairs, 2).
        key: what they were computed from, see `reference_key`.
        template: how the pairs were written as text, so that a refusal can say what changed.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({"log_probs": values.contiguous()}, temporary, metadata=key | {"template": template})
    temporary.replace(path)
    return path


def load_reference(path: Path, key: dict[str, str], template: str = "") -> Tensor:
    """Read log-probabilities of a reference, if they are of this model, data and template.

    Args:
        path: what `save_reference` wrote.
        key: of the model and the pairs at hand.
        template: how the pairs are written as text now.

    Returns:
        Float64 (pairs, 2).

    Raises:
        CourseError: the file cannot be read, or was computed from something else; it says from what.
    """
    try:
        with safe_open(path, "pt") as file:
            known, values = file.metadata() or {}, file.get_tensor("log_probs")
    except (OSError, SafetensorError) as error:
        raise CourseError(f"{path} holds no log-probabilities of a reference ({error}): delete it.") from error
    changed = []
    if known.get("model") != key["model"]:
        changed.append("the model's weights are others")
    if known.get("template") != template:
        changed.append("the template is another one")
    elif known.get("pairs") != key["pairs"]:
        changed.append("the pairs are others (the data, the tokenizer or the limit of their length)")
    if changed:
        raise CourseError(
            f"{path} is stale: since it was written, {' and '.join(changed)}. Delete it, and it is computed again."
        )
    return values


def cache_reference(
    model: nn.Module, pairs: Pairs, path: Path, template: str = "", batch_size: int = 4, pad_token_id: int = 0
) -> bool:
    """Give each pair its "reference" from a file, or compute the values and write the file.

    Args:
        model: the policy before its first step; an adapter is switched off.
        pairs: changed in place.
        path: the file.
        template: how the pairs are written as text: a template's name, or its whole text.
        batch_size: pairs of a forward pass, where they are computed.
        pad_token_id: fills up shorter rows.

    Returns:
        Whether the file was there already.

    Raises:
        CourseError: the file is there and stale.
    """
    found = path.is_file()
    if found:
        values = load_reference(path, reference_key(model, pairs), template)
    else:
        values, key = compute_reference(model, pairs, batch_size, pad_token_id)
        save_reference(path, values, key, template)
    for pair, both in zip(pairs.pairs, values.tolist(), strict=True):
        pair["reference"] = both
    return found
