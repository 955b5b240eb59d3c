"""Preference optimisation by hand: the log-probability of a response, DPO's loss, and its gradient.

Checked against course_lib.alignment.dpo (torch and autograd) in tests/scratch/test_preferences.py.
"""

import numpy as np

from course_lib.scratch.functional import IGNORE

LOSS_TYPES = ("sigmoid", "ipo", "hinge", "simpo")


def sequence_log_probs(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log p(y | x): the sum of log softmax(logits[t])[label[t+1]] over the labels that are not IGNORE.

    Args:
        logits: (batch, time, vocabulary).
        labels: integers (batch, time), unshifted, IGNORE where a token is not of the response.

    Returns:
        (batch,), in nats.

    Raises:
        ValueError: the shapes do not fit.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"labels have shape {labels.shape}, and logits of {logits.shape} need {logits.shape[:-1]}.")
    shifted = logits[:, :-1] - logits[:, :-1].max(axis=-1, keepdims=True)  # (batch, time - 1, vocabulary)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    targets = labels[:, 1:]  # position t predicts label t + 1
    counted = targets != IGNORE
    found = np.take_along_axis(log_p, np.where(counted, targets, 0)[..., None], axis=-1)[..., 0]  # (batch, time - 1)
    return np.where(counted, found, 0.0).sum(axis=-1)


def dpo_loss(
    policy_chosen: np.ndarray,
    policy_rejected: np.ndarray,
    reference_chosen: np.ndarray | None,
    reference_rejected: np.ndarray | None,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
    chosen_lengths: np.ndarray | None = None,
    rejected_lengths: np.ndarray | None = None,
    gamma: float = 0.5,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The loss of each pair, and the rewards of its responses: `course_lib.alignment.dpo.dpo_loss` in NumPy.

    Args:
        policy_chosen: (pairs,), the log-probabilities of the chosen responses under the policy.
        policy_rejected: (pairs,), of the rejected ones.
        reference_chosen: (pairs,), under the reference; None for simpo.
        reference_rejected: (pairs,).
        beta: above 0.
        label_smoothing: of sigmoid and simpo, from 0 to below 0.5.
        loss_type: one of `LOSS_TYPES`.
        chosen_lengths: (pairs,), tokens of each response, for ipo and simpo.
        rejected_lengths: (pairs,).
        gamma: simpo's margin.

    Returns:
        (losses, chosen_rewards, rejected_rewards), (pairs,) each.

    Raises:
        ValueError: there is no such loss, or a number is out of its range.

    Example:
        >>> even = np.zeros(1)
        >>> round(float(np.mean(dpo_loss(even, even, even, even)[0])), 6)  # ln 2
        0.693147
    """
    _check(loss_type, beta, label_smoothing)
    chosen, rejected = np.asarray(policy_chosen, dtype=float), np.asarray(policy_rejected, dtype=float)
    if loss_type == "simpo":
        chosen, rejected = chosen / _given(chosen_lengths), rejected / _given(rejected_lengths)
    else:
        chosen, rejected = chosen - _given(reference_chosen), rejected - _given(reference_rejected)
    scaled = beta * (chosen - rejected)  # (pairs,)
    if loss_type == "hinge":
        losses = np.maximum(0.0, 1 - scaled)
    elif loss_type == "ipo":
        n_chosen = 1 if chosen_lengths is None else chosen_lengths
        n_rejected = 1 if rejected_lengths is None else rejected_lengths
        losses = (chosen / n_chosen - rejected / n_rejected - 1 / (2 * beta)) ** 2
    else:
        scaled = scaled - (gamma if loss_type == "simpo" else 0.0)
        losses = (1 - label_smoothing) * _softplus(-scaled) + label_smoothing * _softplus(scaled)
    return losses, beta * chosen, beta * rejected


def dpo_gradient(
    policy_chosen: np.ndarray,
    policy_rejected: np.ndarray,
    reference_chosen: np.ndarray,
    reference_rejected: np.ndarray,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The gradient of each pair's sigmoid loss with respect to its two log-probabilities.

    With h the difference of the two log-ratios and S the logistic function,

        dL / d log p(chosen) = -beta ((1 - e) S(-beta h) - e S(beta h)) = -dL / d log p(rejected)

    S(-beta h) is how wrong the policy's rewards are (arXiv:2305.18290, section 4): a pair that is ordered rightly by
    far moves nothing.

    Args:
        policy_chosen: (pairs,).
        policy_rejected: (pairs,).
        reference_chosen: (pairs,).
        reference_rejected: (pairs,).
        beta: above 0.
        label_smoothing: e, from 0 to below 0.5.

    Returns:
        The two gradients, (pairs,) each.
    """
    _check("sigmoid", beta, label_smoothing)
    chosen = np.asarray(policy_chosen, dtype=float) - reference_chosen
    scaled = beta * (chosen - (np.asarray(policy_rejected, dtype=float) - reference_rejected))
    wrong = np.exp(-_softplus(scaled))  # S(-beta h)
    chosen_gradient = -beta * ((1 - label_smoothing) * wrong - label_smoothing * (1 - wrong))
    return chosen_gradient, -chosen_gradient


def _softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + exp(x)) = -log S(-x), without overflow for large x."""
    return np.logaddexp(0.0, x)


def _given(value: np.ndarray | None) -> np.ndarray:
    if value is None:
        raise ValueError("simpo needs the lengths of both responses, and every other loss the reference's values.")
    return np.asarray(value, dtype=float)


def _check(loss_type: str, beta: float, label_smoothing: float) -> None:
    if loss_type not in LOSS_TYPES:
        raise ValueError(f"loss_type={loss_type!r} is not possible. Choose one of {', '.join(LOSS_TYPES)}.")
    if not beta > 0:
        raise ValueError(f"beta={beta} is not possible: it has to be above 0.")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing={label_smoothing} is not possible: it is at least 0 and below 0.5.")
