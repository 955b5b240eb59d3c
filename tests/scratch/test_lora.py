"""The NumPy LoRA layer: worked arithmetic, PyTorch's autograd, and the mistakes."""

import numpy as np
import pytest
import torch

from course_lib.scratch import LoRALinear


def test_worked_example():
    layer = LoRALinear(np.eye(2), rank=1, alpha=3.0)
    layer.A[:] = [[1.0, 1.0]]
    layer.B[:] = [[2.0], [0.0]]
    assert layer.forward(np.array([1.0, 4.0])).tolist() == [31.0, 4.0]
    assert layer.merged_weight().tolist() == [[7.0, 6.0], [0.0, 1.0]]


def test_starts_as_the_base_and_stays_within_the_kaiming_bound():
    weight = np.random.default_rng(1).normal(size=(6, 50))
    layer = LoRALinear(weight, rank=4)
    x = np.random.default_rng(2).normal(size=(2, 3, 50))
    assert np.array_equal(layer.forward(x), x @ weight.T)
    assert np.abs(layer.A).max() <= 50**-0.5
    assert layer.A.std() == pytest.approx((3 * 50) ** -0.5, rel=0.1)  # 200 draws of a uniform
    assert [p.shape for p in layer.lora_parameters()] == [(4, 50), (6, 4)]


def test_forward_and_gradients_equal_torch():
    rng = np.random.default_rng(0)
    layer = LoRALinear(rng.normal(size=(5, 7)), rank=3, alpha=6.0)
    layer.B[:] = rng.normal(size=layer.B.shape)
    x, grad_output = rng.normal(size=(2, 4, 7)), rng.normal(size=(2, 4, 5))

    A, B = (torch.tensor(p, requires_grad=True) for p in layer.lora_parameters())
    y = torch.tensor(x) @ (torch.tensor(layer.original_weight) + 2.0 * B @ A).T
    y.backward(torch.tensor(grad_output))

    # float64; the sums run in another order
    np.testing.assert_allclose(layer.forward(x), y.detach(), rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(layer.backward(x, grad_output), (A.grad, B.grad), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rank", [0, 6])
def test_impossible_rank(rank):
    with pytest.raises(ValueError, match=f"rank {rank} .*1 to 5"):
        LoRALinear(np.zeros((5, 7)), rank=rank)


def test_wrong_shapes_name_the_numbers():
    with pytest.raises(ValueError, match=r"\(3,\)"):
        LoRALinear(np.zeros(3))
    with pytest.raises(ValueError, match="x has 6 features and the layer takes 7"):
        LoRALinear(np.zeros((5, 7))).forward(np.zeros((2, 6)))
