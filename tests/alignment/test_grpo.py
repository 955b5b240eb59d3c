"""GRPO's loss: worked numbers, its gradient at the first step, the clip, and what is refused."""

import math

import pytest
import torch

from course_lib.alignment.grpo import group_advantages, grpo_loss, token_kl
from course_lib.errors import CourseError

MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]])


def log_probs(seed):
    return -3 * torch.rand(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_advantages_of_a_worked_group():
    """Rewards 1, 0, 0, 1: mean 0.5, standard deviation 1 / sqrt 3 (of a sample)."""
    found = group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]), 4, eps=0.0)
    assert found.tolist() == pytest.approx([math.sqrt(3) / 2, -math.sqrt(3) / 2, -math.sqrt(3) / 2, math.sqrt(3) / 2])


def test_equal_rewards_teach_nothing_and_groups_do_not_mix():
    found = group_advantages(torch.tensor([1.0, 1.0, 0.0, 5.0]), 2)
    assert found[:2].tolist() == [0.0, 0.0]
    assert found[2:].sum().item() == pytest.approx(0.0, abs=1e-6)
    assert group_advantages(torch.tensor([1.0, 3.0]), 2, scale="none").tolist() == [-1.0, 1.0]


def test_at_the_first_step_the_loss_is_0_and_its_gradient_is_not():
    policy = log_probs(0).requires_grad_()
    advantages = group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64), 4)
    loss = grpo_loss(policy, policy.detach(), advantages, MASK)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    # d loss / d log p = -A / (tokens of the completion x completions)
    expected = -advantages[:, None] * MASK / (MASK.sum(1, keepdim=True) * 4)
    assert torch.allclose(policy.grad, expected)


def test_a_token_that_has_moved_far_enough_has_no_gradient():
    old = torch.zeros(2, 2, dtype=torch.float64)
    policy = torch.tensor([[0.3, 0.1], [0.3, -0.3]], dtype=torch.float64).log1p().requires_grad_()
    grpo_loss(policy, old, torch.tensor([1.0, -1.0], dtype=torch.float64), torch.ones(2, 2)).backward()
    # ratios 1.3, 1.1 with A > 0: the first is clipped; 1.3, 0.7 with A < 0: the second is
    assert (policy.grad != 0).tolist() == [[False, True], [True, False]]


def test_the_three_ways_of_averaging():
    policy, old, advantages = log_probs(0), log_probs(1), torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    ratio = (policy - old).exp()
    token = -torch.minimum(ratio * advantages[:, None], ratio.clamp(0.8, 1.2) * advantages[:, None]) * MASK
    assert torch.allclose(grpo_loss(policy, old, advantages, MASK), (token.sum(1) / MASK.sum(1)).mean())
    assert torch.allclose(grpo_loss(policy, old, advantages, MASK, normalisation="dapo"), token.sum() / 10)
    by_constant = grpo_loss(policy, old, advantages, MASK, normalisation="dr_grpo", max_length=8)
    assert torch.allclose(by_constant, token.sum() / (4 * 8))


def test_the_kl_estimate_is_unbiased_and_never_negative():
    torch.manual_seed(0)
    policy, reference = torch.randn(5).double().log_softmax(0), torch.randn(5).double().log_softmax(0)
    estimate = token_kl(policy, reference)  # of each of the five tokens
    assert (estimate >= 0).all()
    true = (policy.exp() * (policy - reference)).sum()
    assert torch.allclose((policy.exp() * estimate).sum(), true)


def test_with_the_ratio_the_gradient_is_that_of_the_kl_and_without_it_is_not():
    """The expectation over all tokens of a small vocabulary, at the first step, where policy and old are one."""
    torch.manual_seed(0)
    logits, reference = torch.randn(5).double().requires_grad_(), torch.randn(5).double().log_softmax(0)
    chances = logits.detach().softmax(0)
    zero, one = torch.zeros(1).double(), torch.ones(1, 1)

    def expected(policy, unbiased):
        """Each token of the vocabulary is a completion of its own, weighted by its chance."""
        total = 0.0
        for n, chance in enumerate(chances):
            p = policy[n].view(1, 1)
            kl = reference[n].view(1, 1)
            total = total + chance * grpo_loss(p, p.detach(), zero, one, kl, beta=1.0, unbiased_kl=unbiased)
        return total

    def gradient(value):
        return torch.autograd.grad(value, logits)[0]

    policy = logits.log_softmax(0)
    true = gradient((policy.exp() * (policy - reference)).sum())
    assert torch.allclose(gradient(expected(logits.log_softmax(0), True)), true)
    assert not torch.allclose(gradient(expected(logits.log_softmax(0), False)), true, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"normalisation": "mean"}, "normalisation='mean'"),
        ({"normalisation": "dr_grpo"}, "give max_length"),
        ({"beta": 0.1}, "reference's log-probabilities are needed"),
        ({"beta": -0.1}, "at least 0"),
        ({"reference": torch.zeros(4, 3), "beta": 0.1}, r"reference has the shape \(4, 3\)"),
    ],
)
def test_what_is_refused(options, said):
    with pytest.raises(CourseError, match=said):
        grpo_loss(log_probs(0), log_probs(1), torch.zeros(4), MASK, **options)


@pytest.mark.parametrize(
    ("rewards", "size", "said"),
    [([1.0, 0.0, 1.0], 2, "not groups of 2"), ([1.0, 0.0], 1, "not groups of 1"), ([1.0, math.nan], 2, "not a finite")],
)
def test_rewards_that_cannot_be_compared_are_refused(rewards, size, said):
    with pytest.raises(CourseError, match=said):
        group_advantages(torch.tensor(rewards), size)
    with pytest.raises(CourseError, match="scale='all'"):
        group_advantages(torch.tensor(rewards), size, scale="all")
