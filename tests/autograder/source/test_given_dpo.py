"""The reference answers of `dpo`, against torch's autograd, the library, and what was drawn at random."""

import math

import numpy as np
import pytest
import torch
from in_process import InProcess
from torch.nn import functional as F

from course_lib.alignment import grpo
from course_lib.alignment.dpo import dpo_loss
from course_lib.evaluation import pass_at_k
from course_lib.scratch import preferences


@pytest.fixture(scope="module")
def answers():
    """The names of the assignment with its reference answers executed."""
    return InProcess("dpo").names


def pairs(seed, count=7):
    """Log-probabilities: policy chosen and rejected, reference chosen and rejected."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(-20, 5, size=(2, count))
    return *(reference + rng.normal(scale=3, size=(2, count))), *reference


def tensors(arrays):
    return [torch.from_numpy(each) for each in arrays]


@pytest.mark.parametrize("seed", range(3))
def test_log_probs_are_the_librarys(answers, seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(3, 6, 9)), rng.integers(9, size=(3, 6))
    labels[rng.random((3, 6)) < 0.4] = -100
    expected = preferences.sequence_log_probs(logits, labels)
    np.testing.assert_allclose(answers["sequence_log_probs"](logits, labels)[0], expected, rtol=0, atol=1e-13)
    theirs = answers["torch_log_probs"](torch.from_numpy(logits), torch.from_numpy(labels))
    np.testing.assert_allclose(theirs, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_losses_are_the_librarys(answers, beta):
    given = pairs(1)
    losses, chosen, rejected = dpo_loss(*tensors(given), beta)
    np.testing.assert_allclose(answers["dpo_losses"](*given, beta), losses, rtol=0, atol=1e-13)
    metrics = answers["reward_metrics"](*given, beta)
    assert metrics["margin"] == pytest.approx((chosen - rejected).mean().item(), abs=1e-13)
    assert answers["torch_dpo"](*tensors(given), beta)[0].item() == pytest.approx(losses.mean().item(), abs=1e-13)
    smoothed = dpo_loss(*tensors(given), beta, label_smoothing=0.2)[0]
    h = given[0] - given[2] - given[1] + given[3]
    np.testing.assert_allclose(answers["smoothed_losses"](h, beta, 0.2), smoothed, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["hinge", "ipo", "simpo"])
def test_the_other_losses_are_the_librarys(answers, kind):
    given, lengths = pairs(2), np.random.default_rng(3).integers(1, 20, size=(2, 7))
    named = {"chosen_lengths": torch.from_numpy(lengths[0]), "rejected_lengths": torch.from_numpy(lengths[1])}
    reference = [None, None] if kind == "simpo" else tensors(given[2:])
    theirs = dpo_loss(*tensors(given[:2]), *reference, 0.3, loss_type=kind, gamma=0.7, **named)[0]
    ours = answers["preference_losses"](kind, given, tuple(lengths), 0.3, 0.7)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_the_gradient_is_autograds(answers):
    given = tensors(pairs(4))
    policy = [each.clone().requires_grad_() for each in given[:2]]
    (-F.logsigmoid(0.3 * (policy[0] - given[2] - policy[1] + given[3]))).mean().backward()
    for ours, theirs in zip(answers["dpo_gradient"](*pairs(4), 0.3), policy, strict=True):
        np.testing.assert_allclose(ours, theirs.grad, rtol=0, atol=1e-15)


def test_the_best_policy_beats_all_others(answers):
    rng = np.random.default_rng(5)
    reference, rewards = rng.dirichlet(np.ones(6)), rng.normal(size=6)
    best = answers["optimal_policy"](reference, rewards, 0.4)
    most = answers["objective"](best, reference, rewards, 0.4)
    others = [answers["objective"](rng.dirichlet(np.ones(6)), reference, rewards, 0.4) for _ in range(500)]
    assert max(others) < most
    assert most == pytest.approx(0.4 * math.log((reference * np.exp(rewards / 0.4)).sum()), abs=1e-12)


def test_grpo_is_the_librarys(answers):
    rng = np.random.default_rng(6)
    rewards = rng.normal(size=12)
    gains = answers["group_advantages"](rewards, 4)
    np.testing.assert_allclose(gains, grpo.group_advantages(torch.from_numpy(rewards), 4), rtol=0, atol=1e-13)
    old = rng.normal(-2, 1, size=(12, 5))
    new, mask = old + rng.normal(scale=0.3, size=(12, 5)), (np.arange(5) < rng.integers(1, 6, size=(12, 1))) * 1.0
    theirs = grpo.grpo_loss(*tensors([new, old, gains, mask])).item()
    assert answers["grpo_loss"](new, old, gains, mask) == pytest.approx(theirs, abs=1e-13)


def test_pass_at_k_is_the_librarys(answers):
    for samples, right, k in [(10, 3, 4), (100, 1, 10), (7, 7, 2), (5, 0, 5)]:
        expected = pass_at_k(samples, right, k)
        assert answers["pass_at_k"](samples, right, k) == pytest.approx(expected, abs=1e-15)


def test_best_of_n_is_what_is_drawn(answers):
    probabilities, scores = np.array([0.5, 0.2, 0.2, 0.1]), np.array([0.1, 0.9, 0.4, 0.4])
    draws = np.random.default_rng(7).choice(4, p=probabilities, size=(200_000, 3))
    best = draws[np.arange(len(draws)), scores[draws].argmax(axis=1)]
    found = np.bincount(best, minlength=4) / len(draws)
    expected = answers["best_of_n_policy"](probabilities, scores, 3)
    # a share of 200,000 draws has a standard error of at most 0.0011: four of them
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.0045)
    kl = (expected * np.log(expected / probabilities)).sum()
    assert kl < answers["best_of_n_kl"](3)
