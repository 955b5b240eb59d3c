"""The output layer and the loss in one: no array of logits, the same numbers."""

import pytest
import torch

from course_lib.models.fused_loss import (
    linear_cross_entropy,
    linear_cross_entropy_plain,
    token_log_probs,
    token_log_probs_plain,
)


@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_value_and_gradients_are_those_of_the_plain_form(rows, scale):
    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, 6, dtype=torch.float64), torch.randn(11, 6, dtype=torch.float64)
    targets = torch.randint(0, 11, (rows,))
    results = []
    for form in (linear_cross_entropy, linear_cross_entropy_plain):
        inputs = [each.clone().requires_grad_() for each in (hidden, weight)]
        loss = form(*inputs, targets, scale)
        (3 * loss).backward()  # a factor that comes after, as a loss scale is
        results.append([loss.detach(), *(each.grad for each in inputs)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_gradient_is_handed_over_once():
    hidden = torch.randn(4, 5, requires_grad=True)
    loss = linear_cross_entropy(hidden, torch.randn(9, 5), torch.tensor([1, 8, 0, 3]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="hands its gradient over once"):
        loss.backward()


def test_worked():
    """Two tokens with logits 0 and ln 3: the second has probability 3/4, and the first a loss of ln 4."""
    hidden = torch.tensor([[1.0]], requires_grad=True)
    weight = torch.tensor([[0.0], [torch.log(torch.tensor(3.0))]])
    assert linear_cross_entropy(hidden, weight, torch.tensor([0])).item() == pytest.approx(1.3862944)


def test_no_rows_give_a_loss_of_zero_and_zero_gradients():
    hidden = torch.zeros(0, 5, requires_grad=True)
    weight = torch.randn(9, 5, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0.0
    assert not weight.grad.any()


@pytest.mark.parametrize("rows", [1, 5, 33])
@pytest.mark.parametrize("frozen", [True, False])
def test_token_log_probs_and_gradients_are_those_of_the_plain_form(rows, frozen, monkeypatch):
    monkeypatch.setattr("course_lib.models.fused_loss.BYTES_AT_ONCE", 11 * 4 * 4)  # four rows at a time
    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, 6), torch.randn(11, 6)
    targets, factors = torch.randint(0, 11, (rows,)), torch.randn(rows)  # each row's own factor, of both signs
    found = []
    for function in (token_log_probs, token_log_probs_plain):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(not frozen)
        value = function(h, w, targets)
        (value * factors).sum().backward()
        found.append((value.detach(), h.grad, torch.zeros(0) if frozen else w.grad))
    for ours, plain in zip(*found, strict=True):
        assert torch.allclose(ours, plain, atol=1e-5)
