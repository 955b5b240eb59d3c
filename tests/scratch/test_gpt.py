"""The NumPy GPT against the same network written with torch and given the same weights."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from course_lib.benchmarks.torch_gpt import torch_forward
from course_lib.scratch import GPT, AdamW


@pytest.mark.parametrize("tied", [True, False])
def test_logits_loss_and_gradients_equal_torch(tied, parity):
    model = GPT(50, 24, 3, 2, 16, tied=tied, dtype=np.float64, seed=1)
    rng = np.random.default_rng(0)
    for p in model.parameters():  # away from the ones, zeros and tiny numbers of the start
        p.data = p.data + 0.3 * rng.normal(size=p.shape)
    weights = {name: torch.tensor(p.data, requires_grad=True) for name, p in model.named_parameters()}
    ids = rng.integers(0, 50, (3, 12))
    labels = ids.copy()
    labels[:, :4] = -100

    logits = torch_forward(weights, torch.tensor(ids), 3, 2, tied)
    loss = F.cross_entropy(logits[:, :-1].reshape(-1, 50), torch.tensor(labels)[:, 1:].reshape(-1))
    loss.backward()
    ours = model.loss(ids, labels)
    ours.backward()

    head, why = ("tied" if tied else "untied") + " head", "float64: two layers of sums in another order"
    parity.close(f"GPT logits, {head}", "the same network in torch", model(ids).data, logits.detach(), 1e-8, why)
    parity.close(f"GPT loss, {head}", "the same network in torch", ours.item(), loss.item(), 1e-10, why)
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.grad, weights[name].grad, rtol=1e-8, atol=1e-10, err_msg=name)
    gradients = zip(
        *((p.grad.ravel(), weights[name].grad.ravel()) for name, p in model.named_parameters()), strict=True
    )
    what = f"GPT gradients, {head}"
    parity.close(what, "the same network in torch", *map(np.concatenate, gradients), 1e-8, why)


def test_parameter_count_by_hand():
    """V*d + T*d embeddings; a block: 4 (d^2 + d) attention, 8 d^2 + 5 d MLP, 4 d norms; a last norm of 2 d."""
    d, vocabulary, time = 32, 100, 64
    block = 4 * (d * d + d) + (8 * d * d + 5 * d) + 4 * d
    expected = vocabulary * d + time * d + 2 * block + 2 * d
    model = GPT(vocab_size=100, embed_dim=32, num_heads=4, num_layers=2, max_seq_len=64)
    assert sum(p.size for p in model.parameters()) == expected
    untied = GPT(100, 32, 4, 2, 64, tied=False)
    assert sum(p.size for p in untied.parameters()) == expected + vocabulary * d


def test_the_future_is_not_seen():
    model = GPT(20, 16, 2, 2, 10)
    ids = np.arange(8)[None]
    changed = ids.copy()
    changed[0, 5:] = 19
    assert np.array_equal(model(ids).data[0, :5], model(changed).data[0, :5])
    assert not np.array_equal(model(ids).data[0, 5:], model(changed).data[0, 5:])


def test_it_learns_and_generates_what_it_learnt():
    model = GPT(12, 32, 4, 1, 16)
    ids = np.tile(np.arange(12), (2, 1))
    optimizer = AdamW(model.parameters(), lr=1e-2)
    first = model.loss(ids, ids).item()
    for _ in range(60):
        model.zero_grad()
        loss = model.loss(ids, ids)
        loss.backward()
        optimizer.step()
    assert first == pytest.approx(np.log(12), rel=0.1)
    assert loss.item() < 0.05
    assert model.generate([0, 1, 2], 6) == [3, 4, 5, 6, 7, 8]
    assert model.generate([0], 5, temperature=1.0, seed=3) == model.generate([0], 5, temperature=1.0, seed=3)


def test_dropout_is_for_training_only():
    model = GPT(12, 16, 2, 1, 8, dropout=0.5)
    ids = np.arange(6)[None]
    assert not np.array_equal(model(ids).data, model(ids).data)
    model.eval()
    assert np.array_equal(model(ids).data, model(ids).data)


def test_state_goes_round_and_another_models_is_refused():
    a, b = GPT(12, 16, 2, 1, 8, seed=0), GPT(12, 16, 2, 1, 8, seed=1)
    b.load_state_dict(a.state_dict())
    ids = np.arange(6)[None]
    assert np.array_equal(a(ids).data, b(ids).data)
    a.parameters()[0].data[:] = 0
    assert b.parameters()[0].data.any(), "loading copies"
    with pytest.raises(ValueError, match=r"another model's state: .* is \(.*\) there and \(.*\) here|absent"):
        b.load_state_dict(GPT(12, 32, 2, 1, 8).state_dict())


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: GPT(10, 30, 4, 1, 8), "embed_dim 30 .* 4 heads"),
        (lambda: GPT(10, 16, 4, 1, 8)(np.zeros((1, 9), int)), r"ids have shape \(1, 9\); expected \(batch, 1 to 8\)"),
        (lambda: GPT(10, 16, 4, 1, 8)(np.array([[10]])), "id 10 is outside the vocabulary of 10"),
        (lambda: GPT(10, 16, 4, 1, 8)(np.zeros(3, int)), r"ids have shape \(3,\)"),
        (lambda: GPT(10, 16, 4, 1, 8)(np.zeros((1, 3))), "ids are float64: they must be integers"),
        (lambda: GPT(10, 16, 4, 1, 8).loss(np.array([[1, 2]]), np.array([[1]])), r"labels have shape \(1, 1\)"),
        (lambda: GPT(10, 16, 4, 0, 8), "'num_layers': 0.*each must be at least 1"),
        (lambda: GPT(10, 16, 4, 1, 8).generate([1], 2, temperature=-1), "temperature -1"),
    ],
)
def test_mistakes_name_the_value(mistake, message):
    with pytest.raises(ValueError, match=message):
        mistake()
