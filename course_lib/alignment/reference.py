"""The reference of a preference run: the model from which the policy should not move far away.

The reference is the same model with its adapter switched off, a frozen copy of the model, or a file with
log-probabilities that were computed once. Another model of the same name, a changed template or another limit give
other numbers. So the file records what it was computed from, and a file that does not match is refused.
"""

import copy
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from course_lib.adapters.layers import adapted_layers, disable_adapters
from course_lib.alignment.pairs import Pairs, collate_pairs, pair_log_probs
from course_lib.errors import CourseError
from course_lib.files import apply_umask
from course_lib.models.devices import device_of
from course_lib.models.fingerprint import fingerprint
from course_lib.models.modes import evaluating


class Reference(Protocol):
    """Gives the log-probabilities of both responses under the model that training began with."""

    def log_probs(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The reference's log-probabilities of a batch, without a gradient.

        Args:
            model: the policy, perhaps wrapped for several processes.
            batch: see `collate_pairs`.

        Returns:
            (chosen, rejected), (pairs,) each.
        """


class AdapterOff:
    """The policy with its adapter switched off, which is the base. It costs one forward pass and no memory.

    This is the right reference if the adapter began as zero. If the adapter was trained before (on instructions, say),
    the model without it is not the model that training began with. Use `FrozenCopy` then, or merge the adapter first.

    Example:
        >>> from course_lib.adapters import inject_lora
        >>> from course_lib.models.config import CONFIGS
        >>> from course_lib.models.decoder import Decoder
        >>> model = Decoder(CONFIGS["tiny-llama"])
        >>> names = inject_lora(model, ["q_proj"], rank=2, alpha=4)
        >>> pair = {"prompt": [1], "chosen": [2, 3], "rejected": [4], "input_ids": [1, 2, 3, 4]}
        >>> batch = {name: torch.as_tensor(array) for name, array in collate_pairs([pair], [0], 0).items()}
        >>> chosen, rejected = AdapterOff().log_probs(model, batch)
        >>> chosen.shape, chosen.requires_grad
        (torch.Size([1]), False)
    """

    def log_probs(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One forward pass with the adapter off, without dropout.

        Args:
            model: the policy, perhaps wrapped for several processes.
            batch: see `collate_pairs`.

        Returns:
            (chosen, rejected), (pairs,) each.

        Raises:
            CourseError: the model has no adapter, so policy and reference would be the same.
        """
        if next(iter(adapted_layers(model)), None) is None:
            raise CourseError(
                "The model has no adapter to switch off: take a frozen copy or cached values as reference."
            )
        # With dropout, the reference would be a different model in each pass. (TRL leaves it in training mode.)
        with torch.no_grad(), evaluating(model), disable_adapters(model):
            return pair_log_probs(model, batch)


class FrozenCopy:
    """A copy of the model as it is now, including its adapter if it has one.

    The copy needs as much memory as the trained weights: little for an adapter, and all of it again for a whole model.
    Frozen weights, such as the base of an adapter, are shared.

    Args:
        model: the model, which is copied at once.
    """

    def __init__(self, model: nn.Module):
        shared = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
        self.model = copy.deepcopy(model, shared).requires_grad_(False).eval()

    def log_probs(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One forward pass of the copy.

        Args:
            model: the policy, which is not used.
            batch: see `collate_pairs`.

        Returns:
            (chosen, rejected), (pairs,) each.
        """
        with torch.no_grad():
            return pair_log_probs(self.model, batch)


class Cached:
    """Log-probabilities that `cache_reference` has put into the pairs. They cost no forward pass."""

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


@torch.no_grad()
def compute_reference(
    model: nn.Module, pairs: Pairs, batch_size: int = 4, pad_token_id: int = 0
) -> tuple[Tensor, dict[str, str]]:
    """The log-probabilities of all pairs under a model. An adapter on it is switched off.

    Args:
        model: the base, or the policy before its first step.
        pairs: pairs from `encode_pairs`.
        batch_size: how many pairs one forward pass takes.
        pad_token_id: the token that fills up shorter rows.

    Returns:
        Float64 (pairs, 2), and the key of what they were computed from, for `save_reference`.
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
    """Fingerprints of everything that cached values depend on.

    Args:
        model: the model; its weights count, but not those of an adapter.
        pairs: the pairs; their token ids count, which depend on data, template, tokenizer and limit.

    Returns:
        {"model": a fingerprint of the weights, "pairs": one of the token ids}.
    """
    adapters = {id(p) for _, layer in adapted_layers(model) for p in layer.parameters() if p.requires_grad}
    return {"model": fingerprint(p for p in model.parameters() if id(p) not in adapters), "pairs": pairs.fingerprint()}


def save_reference(path: Path, values: Tensor, key: dict[str, str], template: str = "") -> Path:
    """Write the log-probabilities of a reference to a file. The file is complete, or it is not written.

    Args:
        path: a .safetensors file, which is replaced.
        values: float64 (pairs, 2).
        key: what the values were computed from, see `reference_key`.
        template: the template that wrote the pairs as text, so that a refusal can say what has changed.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({"log_probs": values.contiguous()}, temporary, metadata=key | {"template": template})
    apply_umask(temporary).replace(path)
    return path


def load_reference(path: Path, key: dict[str, str], template: str = "") -> Tensor:
    """Read the log-probabilities of a reference, if they belong to this model, these pairs and this template.

    Args:
        path: a file from `save_reference`.
        key: the key of the present model and pairs, see `reference_key`.
        template: the template that writes the pairs as text now.

    Returns:
        Float64 (pairs, 2).

    Raises:
        CourseError: the file cannot be read, or was computed from something else; the message says what has changed.
    """
    try:
        with safe_open(path, "pt") as file:
            known, values = file.metadata() or {}, file.get_tensor("log_probs")
    except (OSError, SafetensorError) as error:
        raise CourseError(f"{path} holds no log-probabilities of a reference ({error}): delete it.") from error
    changed = []
    if known.get("model") != key["model"]:
        changed.append("the model's weights have changed")
    if known.get("template") != template:
        changed.append("the template has changed")
    elif known.get("pairs") != key["pairs"]:
        changed.append("the pairs have changed (the data, the tokenizer or the limit of their length)")
    if changed:
        raise CourseError(
            f"{path} is stale: since it was written, {' and '.join(changed)}. Delete it, and it will be computed again."
        )
    return values


def cache_reference(
    model: nn.Module, pairs: Pairs, path: Path, template: str = "", batch_size: int = 4, pad_token_id: int = 0
) -> bool:
    """Give each pair its "reference" from a file. Without a file, compute the values and write it.

    Args:
        model: the policy before its first step; an adapter is switched off.
        pairs: the pairs, which are changed in place.
        path: the file.
        template: the template that writes the pairs as text: its name, or its whole text.
        batch_size: how many pairs one forward pass takes.
        pad_token_id: the token that fills up shorter rows.

    Returns:
        Whether the file was there already.

    Raises:
        CourseError: the file exists, but does not match the model or the pairs.
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
