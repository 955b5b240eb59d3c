"""The preference losses: worked numbers, gradients by hand, TRL's formulas, and what is refused."""

import math
from types import SimpleNamespace

import pytest
import torch

from course_lib.alignment.dpo import LOSS_TYPES, dpo_loss, reward_metrics
from course_lib.errors import CourseError

LENGTHS = {"chosen_lengths": torch.tensor([4.0, 7.0, 3.0]), "rejected_lengths": torch.tensor([6.0, 2.0, 5.0])}


def values(dtype=torch.float64, seed=0):
    """Log-probabilities of three pairs: policy chosen and rejected, reference chosen and rejected."""
    generator = torch.Generator().manual_seed(seed)
    return [-20 * torch.rand(3, generator=generator, dtype=dtype) for _ in range(4)]


def test_worked_arithmetic():
    """Ratios e^2 and e^-2 and beta 0.5: the margin is 0.5 (2 - -2) = 2, and the loss log(1 + e^-2)."""
    losses, chosen, rejected = dpo_loss(*map(torch.tensor, ([-8.0], [-14.0], [-10.0], [-12.0])), beta=0.5)
    assert losses.item() == pytest.approx(math.log(1 + math.exp(-2)))
    assert (chosen.item(), rejected.item()) == (1.0, -1.0)


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    # c = 2 of 4 tokens, r = -2 of 2 tokens, beta 0.5
    [("hinge", 0.0), ("ipo", (0.5 + 1 - 1) ** 2), ("simpo", math.log(1 + math.exp(-(0.5 * (-2 + 7) - 0.5))))],
)
def test_worked_arithmetic_of_the_others(loss_type, expected):
    pair = map(torch.tensor, ([-8.0], [-14.0], [-10.0], [-12.0]))
    lengths = {"chosen_lengths": torch.tensor([4]), "rejected_lengths": torch.tensor([2])}
    losses, _, _ = dpo_loss(*pair, beta=0.5, loss_type=loss_type, **lengths)
    assert losses.item() == pytest.approx(expected, abs=1e-6)


def test_the_first_step_is_ln_2_and_no_pair_counts_as_right():
    chosen, rejected, _, _ = values(torch.float32)
    losses, *rewards = dpo_loss(chosen, rejected, chosen, rejected)
    assert losses.tolist() == pytest.approx([math.log(2)] * 3, abs=1e-6)
    assert reward_metrics(*rewards) == {"chosen": 0.0, "rejected": 0.0, "margins": 0.0, "accuracies": 0.0}


def test_smoothing_is_the_formula_of_cdpo():
    """(1 - e) times the loss of the pair and e times that of the pair turned round."""
    pc, pr, rc, rr = values()
    smoothed, _, _ = dpo_loss(pc, pr, rc, rr, label_smoothing=0.2)
    right, _, _ = dpo_loss(pc, pr, rc, rr)
    turned, _, _ = dpo_loss(pr, pc, rr, rc)
    assert torch.allclose(smoothed, 0.8 * right + 0.2 * turned, rtol=1e-12)
    assert not torch.allclose(smoothed, right, rtol=1e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_by_hand(smoothing):
    """dL / dc = -beta ((1 - e) S(-beta h) - e S(beta h)), and the opposite for the rejected response."""
    pc, pr, rc, rr = values()
    pc.requires_grad_(), pr.requires_grad_()
    losses, _, _ = dpo_loss(pc, pr, rc, rr, beta=0.3, label_smoothing=smoothing)
    losses.sum().backward()
    scaled = 0.3 * ((pc - rc) - (pr - rr)).detach()
    expected = -0.3 * ((1 - smoothing) * torch.sigmoid(-scaled) - smoothing * torch.sigmoid(scaled))
    assert torch.allclose(pc.grad, expected, rtol=1e-12)
    assert torch.allclose(pr.grad, -expected, rtol=1e-12)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_gradients_are_those_of_central_differences(loss_type):
    pc, pr, rc, rr = values(seed=1)

    def summed(pc, pr):
        return dpo_loss(pc, pr, rc, rr, beta=0.2, loss_type=loss_type, **LENGTHS)[0].sum()

    assert torch.autograd.gradcheck(summed, (pc.requires_grad_(), pr.requires_grad_()))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_simpo_is_trls_with_cpo_alpha_0(smoothing):
    from trl.experimental.cpo import CPOTrainer

    pc, pr, _, _ = values()
    trainer = SimpleNamespace(
        alpha=0.0, beta=2.5, simpo_gamma=1.4, label_smoothing=smoothing, loss_type="simpo",
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    means = pc / LENGTHS["chosen_lengths"], pr / LENGTHS["rejected_lengths"]
    theirs = CPOTrainer.cpo_loss(trainer, *means)
    ours = dpo_loss(pc, pr, None, None, 2.5, smoothing, "simpo", **LENGTHS, gamma=1.4)
    for our, their in zip(ours, theirs, strict=True):
        assert torch.allclose(our, their, rtol=1e-12)


def test_ipo_without_lengths_takes_the_sums():
    pc, pr, rc, rr = values()
    losses, _, _ = dpo_loss(pc, pr, rc, rr, beta=0.25, loss_type="ipo")
    assert torch.allclose(losses, (pc - rc - pr + rr - 2) ** 2)


def test_the_loss_falls_as_the_margin_grows_and_never_overflows():
    margins = torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4])
    losses, _, _ = dpo_loss(margins, 0 * margins, 0 * margins, 0 * margins, beta=1.0)
    assert (losses.diff() < 0).all()
    assert torch.isfinite(losses).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beta": 0.0}, "beta=0.0 .* above 0"),
        ({"beta": -0.1}, "beta=-0.1"),
        ({"beta": math.nan}, "beta=nan"),
        ({"label_smoothing": 0.5}, "label_smoothing=0.5"),
        ({"loss_type": "dpo"}, "loss_type='dpo'.*sigmoid, ipo, hinge, simpo"),
        ({"loss_type": "hinge", "label_smoothing": 0.1}, "has no label smoothing"),
        ({"loss_type": "simpo"}, "lengths"),
        ({"chosen_lengths": torch.ones(3)}, "belong together"),
    ],
)
def test_what_is_refused(options, said):
    with pytest.raises(CourseError, match=said):
        dpo_loss(*values(), **options)


def test_a_missing_reference_and_unequal_numbers_are_refused():
    pc, pr, rc, rr = values()
    with pytest.raises(CourseError, match="reference"):
        dpo_loss(pc, pr, None, None)
    with pytest.raises(CourseError, match=r"\(3,\) and \(1,\)"):
        dpo_loss(pc, pr, rc, rr[:1])
