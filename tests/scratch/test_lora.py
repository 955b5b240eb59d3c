"""The NumPy LoRA layer and model: worked arithmetic, torch's autograd, and the mistakes."""

import numpy as np
import pytest
import torch

from course_lib.scratch import GPT, SGD, LoRALinear, LoRAModel, Tensor


def test_worked_example():
    layer = LoRALinear(np.eye(2), rank=1, alpha=3.0)
    layer.A.data[:] = [[1.0, 1.0]]
    layer.B.data[:] = [[2.0], [0.0]]
    assert layer.forward(np.array([1.0, 4.0])).tolist() == [31.0, 4.0]
    assert layer.merged_weight().tolist() == [[7.0, 6.0], [0.0, 1.0]]


def test_starts_as_the_base_and_stays_within_the_kaiming_bound():
    weight = np.random.default_rng(1).normal(size=(6, 50))
    layer = LoRALinear(weight, rank=4)
    x = np.random.default_rng(2).normal(size=(2, 3, 50))
    assert np.array_equal(layer.forward(x), x @ weight.T)
    a = np.asarray(layer.A)
    assert np.abs(a).max() <= 50**-0.5
    assert a.std() == pytest.approx((3 * 50) ** -0.5, rel=0.1)  # 200 draws of a uniform
    assert [p.shape for p in layer.lora_parameters()] == [(4, 50), (6, 4)]


def test_forward_and_gradients_equal_torch(parity):
    rng = np.random.default_rng(0)
    layer = LoRALinear(rng.normal(size=(5, 7)), rank=3, alpha=6.0)
    layer.B.data[:] = rng.normal(size=layer.B.shape)
    x, weights = rng.normal(size=(2, 4, 7)), rng.normal(size=(2, 4, 5))

    A, B = (torch.tensor(p.data, requires_grad=True) for p in layer.lora_parameters())
    given = torch.tensor(x, requires_grad=True)
    y = given @ (torch.tensor(layer.original_weight) + 2.0 * B @ A).T
    (y * torch.tensor(weights)).sum().backward()

    mine = Tensor(x, requires_grad=True)
    out = layer(mine)
    (out * weights).sum().backward()
    why = "float64: the sums run in another order"
    parity.close("LoRALinear output", "torch", out.data, y.detach(), 1e-12, why)
    for name, ours, theirs in (("A", layer.A, A), ("B", layer.B, B), ("x", mine, given)):
        parity.close(f"LoRALinear gradient of {name}", "torch", ours.grad, theirs.grad, 1e-10, why)
    assert layer.weight.grad is None, "the frozen weight has no gradient"


@pytest.mark.parametrize("rank", [0, 6, 1.5])
def test_impossible_rank(rank):
    with pytest.raises(ValueError, match=f"rank {rank} .*1 to 5"):
        LoRALinear(np.zeros((5, 7)), rank=rank)


def test_wrong_shapes_name_the_numbers():
    with pytest.raises(ValueError, match=r"\(3,\)"):
        LoRALinear(np.zeros(3))
    with pytest.raises(ValueError, match="x has 6 features and the layer takes 7"):
        LoRALinear(np.zeros((5, 7))).forward(np.zeros((2, 6)))


class TestModel:
    def make(self, **options):
        model = LoRAModel(GPT(50, 32, 4, 2, 16), ["q_proj", "v_proj"], rank=4, **options)
        model.inject_lora()
        return model

    def test_starts_as_the_base_and_counts_by_the_formula(self):
        ids = np.arange(12)[None]
        before = GPT(50, 32, 4, 2, 16)
        model = self.make()
        assert np.array_equal(model(ids).data, before(ids).data)
        trained = sum(p.size for p in model.lora_parameters())
        assert trained == 2 * 2 * 4 * (32 + 32)
        frozen = sum(p.size for p in model.base_parameters())
        assert frozen == sum(p.size for p in before.parameters())
        assert model.trainable_percentage() == pytest.approx(100 * trained / (trained + frozen))

    def test_only_the_adapter_moves(self):
        model = self.make()
        before = [p.data.copy() for p in model.base_parameters()]
        optimizer = SGD(model.lora_parameters(), lr=0.5)
        ids = np.random.default_rng(0).integers(0, 50, (2, 12))
        for _ in range(3):
            optimizer.zero_grad()
            model.loss(ids, ids).backward()
            optimizer.step()
        assert all(np.array_equal(p.data, old) for p, old in zip(model.base_parameters(), before, strict=True))
        assert all(layer.B.data.any() for layer in model.layers.values())

    def test_adapters_swap_on_one_base(self):
        model, ids = self.make(), np.arange(10)[None]
        first = model.adapter()
        plain = model(ids).data
        for p in model.lora_parameters():
            p.data = p.data + 0.3
        second, shifted = model.adapter(), model(ids).data
        model.load_adapter(first)
        assert np.array_equal(model(ids).data, plain)
        model.load_adapter(second)
        assert np.array_equal(model(ids).data, shifted)
        other = LoRAModel(GPT(50, 32, 4, 2, 16), ["q_proj"], rank=2)
        other.inject_lora()
        with pytest.raises(ValueError, match="This adapter does not fit: blocks"):
            model.load_adapter(other.adapter())

    def test_mistakes_change_nothing(self):
        base = GPT(50, 32, 4, 2, 16)
        with pytest.raises(ValueError, match="No linear layer is named 'query'; this model has: .*q_proj"):
            LoRAModel(base, ["q_proj", "query"]).inject_lora()
        with pytest.raises(ValueError, match="rank 33 .*1 to 32"):
            LoRAModel(base, ["q_proj"], rank=33).inject_lora()
        with pytest.raises(ValueError, match="target_modules is 'q_proj': a list"):
            LoRAModel(base, "q_proj").inject_lora()
        assert all(p.requires_grad for p in base.parameters())
        model = self.make()
        with pytest.raises(ValueError, match="already"):
            model.inject_lora()
