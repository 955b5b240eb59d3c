"""The reference answers of `sft`, against torch, TRL and the library."""

import numpy as np
import pytest
import torch
import trl
from datasets import Dataset
from in_process import InProcess
from torch.nn import functional as F

from course_lib.data.batching import block_diagonal
from course_lib.training.loss import next_token_loss


@pytest.fixture(scope="module")
def answers():
    """The names of the assignment with its reference answers executed."""
    return InProcess("sft").names


def batch(seed, rows=3, time=6, vocabulary=11):
    """Logits, and targets of which some are ignored."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(vocabulary, size=(rows, time))
    return rng.normal(size=(rows, time, vocabulary)), np.where(rng.random((rows, time)) < 0.6, targets, -100)


@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_are_torchs(answers, seed):
    logits, targets = batch(seed)
    theirs = torch.from_numpy(logits).requires_grad_()
    losses = F.cross_entropy(theirs.transpose(1, 2), torch.from_numpy(targets), reduction="none")
    np.testing.assert_allclose(answers["token_losses"](logits, targets), losses.detach(), rtol=0, atol=1e-13)
    mean = F.cross_entropy(theirs.flatten(0, 1), torch.from_numpy(targets).flatten())
    mean.backward()
    np.testing.assert_allclose(answers["loss_gradient"](logits, targets), theirs.grad, rtol=0, atol=1e-15)
    assert answers["two_means"](losses.detach().numpy(), targets)[0] == pytest.approx(mean.item(), abs=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_shifted_loss_is_the_librarys(answers, seed):
    logits, labels = map(torch.from_numpy, batch(seed))
    logits = logits.float()
    torch.testing.assert_close(answers["torch_loss"](logits, labels), next_token_loss(logits, labels))
    targets = answers["targets_of"](labels.numpy())
    mean = answers["two_means"](answers["token_losses"](logits.double().numpy(), targets), targets)[0]
    assert next_token_loss(logits, labels).item() == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_packing_is_as_tight_as_trls(answers, seed):
    """TRL takes another row among equally good ones, so the rows may differ, and their number does not."""
    lengths = np.random.default_rng(seed).integers(1, 60, size=200).tolist()
    rows = answers["best_fit"](lengths, 64)
    data = Dataset.from_dict({"input_ids": [[index] * length for index, length in enumerate(lengths)]})
    packed = trl.pack_dataset(data, 64, "bfd")["input_ids"]
    assert len(rows) == len(packed)
    ours = sorted(sum(lengths[index] for index in row) for row in rows)
    assert ours == sorted(map(len, packed))


def test_mask_is_the_librarys(answers):
    positions, mask = answers["packed_row"]([3, 1, 4], 10)
    segments = np.array([[1, 1, 1, 2, 3, 3, 3, 3, 0, 0]])
    theirs = block_diagonal(segments)[0]
    assert np.array_equal(mask[:8], np.squeeze(theirs)[:8])
    assert positions.tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 0, 0]


def test_a_step_is_torchs_own(answers):
    rng = np.random.default_rng(5)
    table, head = (torch.from_numpy(rng.normal(size=(9, 4))) for _ in range(2))
    ids = torch.from_numpy(rng.integers(9, size=(3, 7)))
    labels = torch.where(torch.from_numpy(rng.random((3, 7)) < 0.5), ids, -100)
    parameters = [torch.nn.Parameter(each.clone()) for each in (table, head)]
    optimiser = torch.optim.SGD(parameters, lr=0.3)
    loss = answers["torch_loss"](parameters[0][ids] @ parameters[1].T, labels)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, 0.05)
    optimiser.step()
    pieces = [(ids[:1], labels[:1]), (ids[1:], labels[1:])]
    got = answers["sft_step"](table, head, pieces, 0.3, 0.05)
    # torch divides by the norm plus 1e-6
    torch.testing.assert_close(got[:2], tuple(p.detach() for p in parameters), rtol=0, atol=1e-6)
    assert got[2:] == pytest.approx((loss.item(), norm.item()), rel=1e-9)
