"""Preferences in NumPy, against torch and autograd."""

import numpy as np
import pytest
import torch

from course_lib.alignment import dpo
from course_lib.scratch.preferences import LOSS_TYPES, dpo_gradient, dpo_loss, sequence_log_probs

LENGTHS = np.array([4.0, 7.0, 3.0]), np.array([6.0, 2.0, 5.0])


def values():
    return list(-20 * np.random.default_rng(0).random((4, 3)))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_and_rewards_are_torchs(loss_type, smoothing):
    if smoothing and loss_type in ("hinge", "ipo"):
        smoothing = 0.0
    ours = dpo_loss(*values(), 0.3, smoothing, loss_type, *LENGTHS)
    theirs = dpo.dpo_loss(*map(torch.tensor, values()), 0.3, smoothing, loss_type, *map(torch.tensor, LENGTHS))
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their.numpy(), rtol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_gradient_by_hand_is_autograds(smoothing):
    tensors = [torch.tensor(value, requires_grad=True) for value in values()]
    dpo.dpo_loss(*tensors, 0.3, smoothing)[0].sum().backward()
    chosen, rejected = dpo_gradient(*values(), 0.3, smoothing)
    np.testing.assert_allclose(chosen, tensors[0].grad.numpy(), rtol=1e-12)
    np.testing.assert_allclose(rejected, tensors[1].grad.numpy(), rtol=1e-12)


def test_log_probabilities_are_torchs():
    rng = np.random.default_rng(1)
    logits, labels = 30 * rng.normal(size=(2, 5, 7)), rng.integers(0, 7, (2, 5))
    labels[:, :2], labels[1, 4] = -100, -100
    theirs = torch.tensor(logits).log_softmax(-1)
    expected = [
        sum(theirs[row, t - 1, labels[row, t]].item() for t in range(1, 5) if labels[row, t] >= 0) for row in (0, 1)
    ]
    np.testing.assert_allclose(sequence_log_probs(logits, labels), expected, rtol=1e-12)


def test_what_is_refused():
    with pytest.raises(ValueError, match="beta=0"):
        dpo_loss(*values(), beta=0)
    with pytest.raises(ValueError, match="simpo needs the lengths"):
        dpo_loss(*values(), loss_type="simpo")
    with pytest.raises(ValueError, match="labels have shape"):
        sequence_log_probs(np.zeros((1, 3, 4)), np.zeros((1, 2), dtype=int))
