"""Group relative policy optimisation: learn from rewards that a program can check, without a critic.

For each prompt the policy writes several completions and a program rewards each of them. Those that are better than the
mean of their group become likelier (DeepSeekMath, arXiv:2402.03300). tests/parity/test_grpo.py compares the loss with
TRL's GRPOTrainer on the same completions. Left out: generation itself, and later forms of the ratio (GSPO, CISPO,
SAPO).

The clipping removes the gradient of a token that has moved far enough in the direction of its advantage (PPO,
arXiv:1707.06347, eq. 7). The KL term is an unbiased estimate of KL(p || p_ref) and is never negative. Its factor, the
ratio w = p / p_old, is 1 in the first step, but the gradient of w matters: only with it is the gradient that of
KL(p || p_ref) (DeepSeek-V3.2, arXiv:2512.02556; TRL has the factor as well, the first paper does not).

In the first step after sampling, p equals p_old, so the loss is minus the mean advantage, which is 0, although its
gradient is not. Judge a run by its rewards and not by its loss.
"""

import torch
from torch import Tensor

from course_lib.errors import CourseError

NORMALISATIONS = ("grpo", "bnpo", "dapo", "dr_grpo")
SCALES = ("group", "batch", "none")


def group_advantages(rewards: Tensor, group_size: int, scale: str = "group", eps: float = 1e-4) -> Tensor:
    """How much better each completion is than its group: A = (r - mean(group)) / (std + eps).

    A group whose rewards are all equal teaches nothing: its advantages are 0. Scale "none" leaves the standard
    deviation out, so small differences within a group are not enlarged (Dr. GRPO, arXiv:2503.20783).

    Args:
        rewards: (completions,); the completions of one prompt are next to each other.
        group_size: the number of completions of a prompt, at least 2.
        scale: "group" divides by the group's standard deviation, "batch" by that of all rewards, "none" by nothing.
        eps: added to the standard deviation; TRL's value.

    Returns:
        (completions,), each group summing to 0.

    Raises:
        CourseError: the number of rewards is not a multiple of the group size, a reward is not finite, or the scale is
            unknown.

    Example:
        >>> group_advantages(torch.tensor([1.0, 0.0, 1.0, 1.0]), group_size=2).round(decimals=2)
        tensor([ 0.7100, -0.7100,  0.0000,  0.0000])
    """
    if scale not in SCALES:
        raise CourseError(f"scale={scale!r} is not possible. Choose one of {', '.join(SCALES)}.")
    if group_size < 2 or rewards.dim() != 1 or len(rewards) == 0 or len(rewards) % group_size:
        raise CourseError(
            f"{tuple(rewards.shape)} rewards are not groups of {group_size}: a completion is compared with at least "
            "one other of the same prompt, so give (prompts x group_size,) with group_size of 2 or more."
        )
    if not torch.isfinite(rewards).all():
        raise CourseError("A reward is not a finite number: let the reward function return 0 where it cannot judge.")
    groups = rewards.view(-1, group_size)  # (prompts, group_size)
    advantages = groups - groups.mean(1, keepdim=True)
    if scale == "group":
        advantages = advantages / (groups.std(1, keepdim=True) + eps)
    elif scale == "batch":
        advantages = advantages / (rewards.std() + eps)
    return advantages.flatten()


def grpo_loss(
    policy: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    reference: Tensor | None = None,
    beta: float = 0.0,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    normalisation: str = "grpo",
    max_length: int | None = None,
    unbiased_kl: bool = True,
) -> Tensor:
    r"""The loss of a batch of completions. The text at the top of this module explains its terms.

    With the ratio w = p / p_old of each token and the completion's advantage A,

        token loss = -min(w A, clip(w, 1 - epsilon, 1 + epsilon) A) + beta w (p_ref / p - log(p_ref / p) - 1)

    Args:
        policy: (completions, time), log-probabilities of the tokens under the policy, with a gradient.
        old: (completions, time), the same under the policy that wrote the completions.
        advantages: (completions,), see `group_advantages`.
        mask: (completions, time), 1 for a completion's tokens with its end token, 0 for what follows.
        reference: (completions, time), the same under the reference; needed if beta is above 0.
        beta: the weight of the KL term, at least 0.
        epsilon: how far a ratio may fall below 1 before it is clipped.
        epsilon_high: how far it may rise above 1; None for epsilon.
        normalisation: "grpo" averages within each completion and then over completions; "bnpo" and "dapo" over all
            tokens; "dr_grpo" divides by completions times max_length.
        max_length: the constant of dr_grpo.
        unbiased_kl: whether the KL term is multiplied by the ratio.

    Returns:
        A scalar.

    Raises:
        CourseError: an argument is not possible, or a shape does not match.

    Example:
        >>> log_p = torch.tensor([[-1.0, -2.0], [-0.5, -1.5]])
        >>> mask, advantages = torch.ones(2, 2), torch.tensor([0.7, -0.7])
        >>> policy = log_p.clone().requires_grad_()
        >>> loss = grpo_loss(policy, log_p, advantages, mask)  # 0 in the first step
        >>> loss.backward()
        >>> policy.grad  # pushes the first completion up and the second one down
        tensor([[-0.1750, -0.1750],
                [ 0.1750,  0.1750]])
    """
    _check(policy, old, advantages, mask, reference, beta, normalisation, max_length)
    mask = mask.to(policy.dtype)
    ratio = torch.exp(policy - old)  # (completions, time)
    high = epsilon if epsilon_high is None else epsilon_high
    gain = advantages[:, None]  # (completions, 1)
    losses = -torch.min(ratio * gain, ratio.clamp(1 - epsilon, 1 + high) * gain)
    if beta and reference is not None:
        losses = losses + beta * token_kl(policy, reference) * (ratio if unbiased_kl else 1.0)
    return _averaged(losses * mask, mask, normalisation, max_length)


def _averaged(losses: Tensor, mask: Tensor, normalisation: str, max_length: int | None) -> Tensor:
    """The mean of the tokens' losses, which are 0 outside the mask.

    - "grpo": within each completion, then over completions, so a long one's tokens count less (arXiv:2402.03300);
    - "bnpo", "dapo": over all tokens of the batch (arXiv:2503.14476);
    - "dr_grpo": by a constant, completions times max_length, so length does not enter (arXiv:2503.20783).
    """
    if normalisation == "grpo":
        return (losses.sum(1) / mask.sum(1).clamp(min=1)).mean()
    if normalisation == "dr_grpo":
        return losses.sum() / (len(losses) * float(max_length or 1))
    return losses.sum() / mask.sum().clamp(min=1)


def token_kl(policy: Tensor, reference: Tensor) -> Tensor:
    """Estimate KL(p || p_ref) at each token of p by p_ref / p - log(p_ref / p) - 1, without bias and never negative.

    It is the estimator k3 of J. Schulman, "Approximating KL divergence" (2020).

    Args:
        policy: log-probabilities of the tokens, of any shape.
        reference: the same under the reference.

    Returns:
        The same shape.
    """
    difference = reference - policy
    return difference.exp() - difference - 1


def _check(
    policy: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    reference: Tensor | None,
    beta: float,
    normalisation: str,
    max_length: int | None,
) -> None:
    if normalisation not in NORMALISATIONS:
        raise CourseError(
            f"normalisation={normalisation!r} is not possible. Choose one of {', '.join(NORMALISATIONS)}."
        )
    if normalisation == "dr_grpo" and not max_length:
        raise CourseError("normalisation='dr_grpo' divides by the longest length that is allowed: give max_length.")
    if beta < 0 or (beta > 0 and reference is None):
        raise CourseError(f"beta={beta}: it is at least 0, and above 0 the reference's log-probabilities are needed.")
    for name, value in {"old": old, "mask": mask, "reference": reference}.items():
        if value is not None and value.shape != policy.shape:
            raise CourseError(
                f"{name} has the shape {tuple(value.shape)}, and policy {tuple(policy.shape)}: they have to be equal."
            )
    if advantages.shape != policy.shape[:1]:
        raise CourseError(
            f"advantages has the shape {tuple(advantages.shape)}, and there are {len(policy)} completions: give one "
            "for each."
        )
