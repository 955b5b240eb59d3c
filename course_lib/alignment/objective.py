"""A preference loss for the Trainer: it combines policy, reference, loss, metrics and guard."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.alignment.dpo import check_loss, dpo_loss, reward_metrics
from course_lib.alignment.guard import DivergenceGuard
from course_lib.alignment.pairs import Pair, collate_pairs, pair_log_probs, response_lengths
from course_lib.alignment.reference import Reference
from course_lib.data.masking import IGNORE
from course_lib.errors import CourseError
from course_lib.models.devices import device_of
from course_lib.models.modes import evaluating


class PreferenceObjective:
    """The mean of `dpo_loss` over the pairs of a step, from batches of `collate_pairs`.

    Args:
        reference: gives the log-probabilities to compare with; None for simpo, which has no reference.
        beta: see `dpo_loss`.
        label_smoothing: see `dpo_loss`.
        loss_type: see `dpo_loss`.
        gamma: see `dpo_loss`.
        guard: stops a run that diverges; None for no such check.

    Raises:
        CourseError: a number of the loss is out of its range.

    Example:
        >>> from course_lib.alignment.reference import FrozenCopy
        >>> from course_lib.models.config import CONFIGS
        >>> from course_lib.models.decoder import Decoder
        >>> model = Decoder(CONFIGS["tiny-llama"])
        >>> pairs = [{"prompt": [1], "chosen": [2, 3], "rejected": [4], "input_ids": [1, 2, 3, 4]}]
        >>> objective = PreferenceObjective(FrozenCopy(model), beta=0.1)
        >>> round(evaluate_preferences(model, objective, pairs)["loss"], 4)  # ln 2: policy and reference are equal
        0.6931
    """

    def __init__(
        self,
        reference: Reference | None,
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        loss_type: str = "sigmoid",
        gamma: float = 0.5,
        guard: DivergenceGuard | None = None,
    ):
        check_loss(loss_type, beta, label_smoothing)
        self.reference, self.guard = reference, guard
        self.options: dict[str, Any] = {
            "beta": beta,
            "label_smoothing": label_smoothing,
            "loss_type": loss_type,
            "gamma": gamma,
        }
        self.seen: list[dict[str, Tensor]] = []  # one for each micro-batch since the last report

    def count(self, batch: dict[str, Tensor]) -> int:
        """The number of pairs in a batch."""
        return int((batch["labels"] != IGNORE).any(1).sum())

    def loss(self, model: nn.Module, batch: dict[str, Tensor], weight: float) -> Tensor:
        """`weight` times the sum of the pairs' losses.

        Args:
            model: the policy.
            batch: see `collate_pairs`, as tensors.
            weight: one over the pairs of the whole step.

        Returns:
            A scalar.
        """
        is_pair = (batch["labels"] != IGNORE).any(1)  # (pairs,): a process without a row of its own has none
        losses, values = self.compare(model, batch)
        self.seen.append({name: value.detach()[is_pair] for name, value in values.items()})
        return weight * losses[is_pair].sum()

    def compare(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses of a batch, and the values that they are computed from.

        Args:
            model: the policy.
            batch: see `collate_pairs`, as tensors.

        Returns:
            The losses, (pairs,), with a gradient; and by name, (pairs,) each: "losses", "chosen_rewards",
            "rejected_rewards", "chosen_ratio" (the mean log-ratio of a token of the chosen response) and "reference"
            (the sum of the reference's two log-probabilities).
        """
        first = second = None
        if self.reference is not None:
            first, second = self.reference.log_probs(model, batch)
        chosen, rejected = pair_log_probs(model, batch)
        chosen_lengths, rejected_lengths = response_lengths(batch)
        ratio = reference = torch.zeros_like(chosen)  # simpo has no reference to stray from
        if first is not None and second is not None:
            # A file's values are float64; the loss is computed in the policy's dtype.
            first, second = first.to(chosen.dtype), second.to(chosen.dtype)
            ratio, reference = (chosen - first) / chosen_lengths.clamp(min=1), first + second
        losses, chosen_rewards, rejected_rewards = dpo_loss(
            chosen,
            rejected,
            first,
            second,
            chosen_lengths=chosen_lengths,
            rejected_lengths=rejected_lengths,
            **self.options,
        )
        values = {"losses": losses, "chosen_rewards": chosen_rewards, "rejected_rewards": rejected_rewards}
        return losses, values | {"chosen_ratio": ratio, "reference": reference}

    def report(self) -> dict[str, float]:
        """The metrics of `reward_metrics`, over the pairs since the last report.

        Raises:
            CourseError: the guard stops the run.
        """
        if not self.seen:
            return {}
        values = {name: torch.cat([each[name] for each in self.seen]) for name in self.seen[0]}
        self.seen = []
        metrics = reward_metrics(values["chosen_rewards"], values["rejected_rewards"])
        if self.guard is not None and len(values["losses"]):
            self.guard.watch(
                values["losses"].mean().item(),
                metrics["margins"],
                values["chosen_ratio"].mean().item(),
                bool(torch.isfinite(values["reference"]).all()),
            )
        return metrics


@torch.no_grad()
def evaluate_preferences(
    model: nn.Module, objective: PreferenceObjective, pairs: Sequence[Pair], batch_size: int = 4, pad_token_id: int = 0
) -> dict[str, float]:
    """Compute the preference loss on held-out pairs, without dropout. Afterwards the model is in its old mode.

    Args:
        model: the policy.
        objective: the loss and the reference.
        pairs: pairs from `encode_pairs`.
        batch_size: how many pairs one forward pass takes; it does not change the result.
        pad_token_id: the token that fills up shorter rows.

    Returns:
        "loss", and the values of `reward_metrics`, as means over the pairs.

    Raises:
        CourseError: `pairs` is empty.
    """
    if not pairs:
        raise CourseError("There is no pair to evaluate on: give more pairs, or hold out a larger part of them.")
    device, found = device_of(model), []
    with evaluating(model):
        for start in range(0, len(pairs), batch_size):
            arrays = collate_pairs(pairs, range(start, min(start + batch_size, len(pairs))), pad_token_id)
            batch = {key: torch.as_tensor(value, device=device) for key, value in arrays.items()}
            found.append(objective.compare(model, batch)[1])
    values = {name: torch.cat([each[name] for each in found]) for name in found[0]}
    metrics = reward_metrics(values["chosen_rewards"], values["rejected_rewards"])
    return {"loss": values["losses"].mean().item()} | metrics
