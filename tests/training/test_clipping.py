"""Gradient clipping: torch's result where torch is right, and the right one where it is not."""

import math

import pytest
import torch
from torch import nn

from course_lib.training.clipping import clip_grad_norm, gradient_norm


def parameters(*gradients):
    made = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient.clone()
        made.append(parameter)
    return made


@pytest.mark.parametrize("max_norm", [0.5, 1.0, 100.0])
def test_equal_to_torchs_on_small_gradients(max_norm, parity):
    torch.manual_seed(0)
    gradients = [torch.randn(7, 5), torch.randn(3), torch.randn(2, 4, 6)]
    ours, theirs = parameters(*gradients), parameters(*gradients)
    norms = clip_grad_norm(ours, max_norm), nn.utils.clip_grad_norm_(theirs, max_norm)
    why = "float32: the same sums in another order"
    parity.close(f"gradient norm, clipped to {max_norm:g}", "torch clip_grad_norm_", norms[0], norms[1], 1e-6, why)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=0)


def test_worked():
    """The gradients (3, 0) and (4): norm 5, scaled to norm 1 by a fifth."""
    ours = parameters(torch.tensor([3.0, 0.0]), torch.tensor([4.0]))
    assert clip_grad_norm([*ours, nn.Parameter(torch.zeros(2))], 1.0).item() == 5.0
    assert ours[0].grad.tolist() == pytest.approx([0.6, 0.0])
    assert ours[1].grad.tolist() == pytest.approx([0.8])
    assert gradient_norm([]).item() == 0.0


def test_a_large_tensor_is_measured_right():
    """Ten million normal numbers: torch's own norm is off by 4e-4 on a CPU."""
    numbers = torch.randn(10_000_000, generator=torch.Generator().manual_seed(0))
    assert gradient_norm([numbers]).item() == pytest.approx(numbers.double().norm().item(), rel=1e-5)


def test_a_float16_norm_beyond_its_range_clips_instead_of_erasing():
    (parameter,) = parameters(torch.full((1_000_000,), 100.0, dtype=torch.float16))
    assert clip_grad_norm([parameter], 1.0).item() == pytest.approx(1e5, rel=1e-3)
    assert parameter.grad.float().norm().item() == pytest.approx(1.0, rel=2e-2)  # entries of 1e-3 in float16


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_gradients_that_are_not_finite_are_left_as_they_are(bad):
    ours = parameters(torch.tensor([1.0, bad]), torch.tensor([2.0]))
    assert not clip_grad_norm(ours, 1.0).isfinite()
    assert ours[1].grad.item() == 2.0
