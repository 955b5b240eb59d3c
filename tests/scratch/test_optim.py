"""The optimisers, the schedule and clipping against torch's, in float64."""

import numpy as np
import pytest
import torch

from course_lib.scratch import SGD, AdamW, Tensor, clip_grad_norm, warmup_cosine
from course_lib.training import warmup_cosine as torch_edition

WHY = "float64: the rounding of a hundred updates"


def a_hundred_steps(ours, theirs):
    """The same random gradients to both; returns the largest difference on the way."""
    rng = np.random.default_rng(0)
    start = [rng.normal(size=(4, 3)), rng.normal(size=5)]
    mine = [Tensor(x.copy(), requires_grad=True) for x in start]
    torchs = [torch.tensor(x.copy(), requires_grad=True) for x in start]
    a, b = ours(mine), theirs(torchs)
    worst = 0.0
    for _ in range(100):
        for p, q in zip(mine, torchs, strict=True):
            p.grad = rng.normal(size=p.shape)
            q.grad = torch.tensor(p.grad)
        a.step()
        b.step()
        worst = max(worst, *(np.abs(p.data - q.detach().numpy()).max() for p, q in zip(mine, torchs, strict=True)))
    return worst


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "weight_decay": 0.1}])
def test_sgd_equals_torch(options, parity):
    worst = a_hundred_steps(lambda p: SGD(p, 0.05, **options), lambda p: torch.optim.SGD(p, 0.05, **options))
    parity.within(f"SGD, 100 steps {options or ''}", "torch.optim.SGD", worst, 1e-10, WHY, "absolute")


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}])
def test_adamw_equals_torch(options, parity):
    worst = a_hundred_steps(lambda p: AdamW(p, 0.01, **options), lambda p: torch.optim.AdamW(p, 0.01, **options))
    parity.within(f"AdamW, 100 steps {options or ''}", "torch.optim.AdamW", worst, 1e-10, WHY, "absolute")


def test_first_adam_step_is_lr_times_sign():
    p = Tensor(np.zeros(3), requires_grad=True)
    p.grad = np.array([1e-3, -50.0, 2.0])
    AdamW([p], lr=0.1, weight_decay=0.0).step()
    np.testing.assert_allclose(p.data, [-0.1, 0.1, -0.1], rtol=1e-4)


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clipping_equals_torch(max_norm, parity):
    rng = np.random.default_rng(0)
    mine = [Tensor(np.zeros(s), requires_grad=True) for s in ((3, 4), (5,))]
    torchs = [torch.zeros(s, dtype=torch.float64, requires_grad=True) for s in ((3, 4), (5,))]
    for p, q in zip(mine, torchs, strict=True):
        p.grad = rng.normal(size=p.shape)
        q.grad = torch.tensor(p.grad)
    assert clip_grad_norm(mine, max_norm) == pytest.approx(torch.nn.utils.clip_grad_norm_(torchs, max_norm).item())
    gradients = ([p.grad.ravel() for p in mine], [q.grad.numpy().ravel() for q in torchs])
    what = f"gradients clipped to norm {max_norm:g}"
    parity.close(what, "torch clip_grad_norm_", *map(np.concatenate, gradients), 1e-12, "float64: one product")


def test_a_schedule_worked_by_hand():
    """Six steps, two of warm-up: 1/2, 1, then 0.55 + 0.45 cos(k pi / 4) for k = 0 to 4, where cos(pi / 4) = 0.70711."""
    expected = [0.5, 1, 1, 0.55 + 0.45 * 0.70711, 0.55, 0.55 - 0.45 * 0.70711, 0.1, 0.1]
    assert [warmup_cosine(step, 6, 2) for step in range(8)] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("steps", "warmup"), [(4, 4), (4, 3), (4, 0), (1, 1), (1, 0)])
def test_a_schedule_ends_at_its_lowest_rate(steps, warmup):
    """Also where the warm-up takes all steps: 1/4, 2/4, 3/4, 1, and behind the last step 0.2 and not 1."""
    factors = [warmup_cosine(step, steps, warmup, min_lr_ratio=0.2) for step in range(steps + 2)]
    assert factors[:warmup] == [(step + 1) / warmup for step in range(warmup)]
    assert factors[steps:] == pytest.approx([0.2, 0.2])
    if warmup < steps:
        assert factors[warmup] == 1


def test_both_editions_have_one_schedule():
    for warmup in (0, 5, 39, 40, 60):
        assert [warmup_cosine(s, 40, warmup) for s in range(42)] == [torch_edition(s, 40, warmup) for s in range(42)]


def test_mistakes():
    with pytest.raises(ValueError, match="at least one parameter"):
        SGD([], 0.1)
    with pytest.raises(ValueError, match="lr=-1"):
        AdamW([Tensor([1.0])], lr=-1)
    with pytest.raises(ValueError, match="lr=nan"):
        SGD([Tensor([1.0])], lr=float("nan"))
    with pytest.raises(ValueError, match=r"betas=\(0.9, 1.0\)"):
        AdamW([Tensor([1.0])], betas=(0.9, 1.0))
