r"""Preference losses: DPO and its relatives, from the log-probabilities of whole responses.

The policy is the model that is trained; the reference is the model that it began as. The reward of a response is beta
times log(p / p_ref), where p is its probability under the policy and p_ref that under the reference, so DPO needs no
reward model.

Let c = log p(chosen) - log p_ref(chosen), let r be the same for the rejected response, and let h = c - r. S is the
logistic function and e the label smoothing:

========  =====================================================  ============================================
sigmoid   -(1 - e) log S(beta h) - e log S(-beta h)              DPO, arXiv:2305.18290, eq. 7; with e cDPO
hinge     max(0, 1 - beta h)                                     SLiC, arXiv:2305.10425, by arXiv:2309.06657
ipo       (c / n_c - r / n_r - 1 / (2 beta))^2                   IPO, arXiv:2310.12036, eq. 17
simpo     -log S(beta (log p_c / n_c - log p_r / n_r) - gamma)   SimPO, arXiv:2405.14734, eq. 6
========  =====================================================  ============================================

e is the share of pairs that are assumed to have the wrong label; n_c and n_r are the lengths. IPO's paper does not
divide by the lengths, but its authors' code does, and so does TRL. Without lengths, ipo uses the sums. At the first
step the policy equals the reference, so h is 0 and the sigmoid loss is ln 2.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.alignment.loss_types import LOSS_TYPES, check_loss
from course_lib.errors import CourseError


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor | None,
    reference_rejected: Tensor | None,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
    gamma: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of each preference pair, and the rewards of its two responses; the table above has the formulas.

    Losses, rewards and gradients are equal to those of TRL's DPOTrainer and CPOTrainer (with cpo_alpha 0) in
    tests/parity/test_preferences.py and tests/alignment/test_dpo.py. TRL's sigmoid loss silently ignores
    label_smoothing; ours is checked against the formula. Left out: smoothing of hinge and ipo, which no paper defines.

    Args:
        policy_chosen: (pairs,), the summed log-probability of each chosen response under the policy, in nats.
        policy_rejected: (pairs,), the same for the rejected responses.
        reference_chosen: (pairs,), under the reference; None for simpo, which has no reference.
        reference_rejected: (pairs,), under the reference.
        beta: the cost of moving away from the reference, above 0; for ipo it is the paper's tau.
        label_smoothing: from 0 to below 0.5; for sigmoid and simpo.
        loss_type: one of `LOSS_TYPES`.
        chosen_lengths: (pairs,), the tokens of each chosen response. They are optional for ipo, and simpo needs them.
        rejected_lengths: (pairs,), the tokens of each rejected response.
        gamma: simpo's margin, by which beta times the mean log-probabilities should differ.

    Returns:
        (losses, chosen_rewards, rejected_rewards), (pairs,) each. The rewards carry no gradient.

    Raises:
        CourseError: a number is out of its range, or an argument that the loss needs is missing.

    Example:
        >>> even = torch.zeros(1)
        >>> round(dpo_loss(even, even, even, even)[0].mean().item(), 6)  # ln 2 at the start
        0.693147
    """
    check_loss(loss_type, beta, label_smoothing)
    _check_shapes(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    if (chosen_lengths is None) != (rejected_lengths is None):
        raise CourseError("chosen_lengths and rejected_lengths belong together: give both or neither.")
    # c and r of the table: log-ratios, or simpo's mean log-probabilities of a token
    chosen = _compared(loss_type, policy_chosen, reference_chosen, chosen_lengths)
    rejected = _compared(loss_type, policy_rejected, reference_rejected, rejected_lengths)

    scaled = beta * (chosen - rejected)  # (pairs,)
    if loss_type == "hinge":
        losses = torch.relu(1 - scaled)
    elif loss_type == "ipo":
        difference = _per_token(chosen, chosen_lengths) - _per_token(rejected, rejected_lengths)
        losses = (difference - 1 / (2 * beta)) ** 2
    else:
        if loss_type == "simpo":
            scaled = scaled - gamma
        losses = -(1 - label_smoothing) * F.logsigmoid(scaled) - label_smoothing * F.logsigmoid(-scaled)
    return losses, beta * chosen.detach(), beta * rejected.detach()


def _compared(loss_type: str, policy: Tensor, reference: Tensor | None, lengths: Tensor | None) -> Tensor:
    """What a response is judged by, (pairs,): its log-ratio to the reference, or for simpo its mean log-probability."""
    if loss_type == "simpo":
        if lengths is None:
            raise CourseError("loss_type='simpo' divides by the responses' lengths: give chosen_lengths, too.")
        return _per_token(policy, lengths)
    if reference is None:
        raise CourseError(f"loss_type={loss_type!r} compares with a reference: give its log-probabilities.")
    return policy - reference


def _per_token(values: Tensor, lengths: Tensor | None) -> Tensor:
    """The values divided by the lengths, where they are given; an empty response counts as one token."""
    return values if lengths is None else values / lengths.clamp(min=1)


def _check_shapes(first: Tensor, *others: Tensor | None) -> None:
    """CourseError where the log-probabilities are of different numbers of pairs, which broadcasting would hide."""
    for other in others:
        if other is not None and other.shape != first.shape:
            raise CourseError(
                f"The log-probabilities have the shapes {tuple(first.shape)} and {tuple(other.shape)}: each needs one "
                "value for each pair."
            )


def reward_metrics(chosen_rewards: Tensor, rejected_rewards: Tensor) -> dict[str, float]:
    """The metrics to watch while a policy trains, with the names of TRL's log without "rewards/".

    A pair counts as right if its chosen reward is larger. Equal rewards count as wrong, so the accuracy of an untrained
    policy is 0, as it is in TRL.

    Args:
        chosen_rewards: (pairs,).
        rejected_rewards: (pairs,).

    Returns:
        "chosen", "rejected", "margins" and "accuracies", as means over the pairs.

    Example:
        >>> metrics = reward_metrics(torch.tensor([1.0, 0.5]), torch.tensor([0.0, 1.0]))
        >>> metrics["margins"], metrics["accuracies"]
        (0.25, 0.5)
    """
    margins = chosen_rewards - rejected_rewards
    return {
        "chosen": chosen_rewards.mean().item(),
        "rejected": rejected_rewards.mean().item(),
        "margins": margins.mean().item(),
        "accuracies": (margins > 0).float().mean().item(),
    }


__all__ = ["LOSS_TYPES", "check_loss", "dpo_loss", "reward_metrics"]
