"""Every operation's gradient: central differences, and torch, in float64."""

import numpy as np
import pytest
import torch

from course_lib.scratch import Tensor, no_grad
from course_lib.scratch.functional import cross_entropy, dropout, embedding, gelu, layer_norm, log_softmax, softmax

RNG = np.random.default_rng(0)


def array(*shape):
    return RNG.normal(size=shape)


IDS = np.array([[0, 2], [2, 4]])
LABELS = np.array([[1, -100, 0], [4, 4, -100]])

# name: (ours, torch's, inputs)
OPERATIONS = {
    "add": (lambda a, b: a + b, lambda a, b: a + b, [array(3, 4), array(3, 4)]),
    "add broadcast": (lambda a, b: a + b, lambda a, b: a + b, [array(2, 3, 4), array(3, 1)]),
    "subtract constant": (lambda a: 2.0 - a, lambda a: 2.0 - a, [array(3)]),
    "multiply broadcast": (lambda a, b: a * b, lambda a, b: a * b, [array(2, 3, 4), array(4)]),
    "divide": (lambda a, b: a / b, lambda a, b: a / b, [array(3, 4), np.abs(array(4)) + 1]),
    "divide constant": (lambda a: 1.0 / a, lambda a: 1.0 / a, [np.abs(array(3)) + 1]),
    "power": (lambda a: a**3.0, lambda a: a**3.0, [array(3, 4)]),
    "matmul": (lambda a, b: a @ b, lambda a, b: a @ b, [array(3, 4), array(4, 5)]),
    "matmul batch by matrix": (lambda a, b: a @ b, lambda a, b: a @ b, [array(2, 3, 4), array(4, 5)]),
    "matmul batch by batch": (lambda a, b: a @ b, lambda a, b: a @ b, [array(2, 6, 3, 4), array(2, 6, 4, 5)]),
    "matmul broadcast": (lambda a, b: a @ b, lambda a, b: a @ b, [array(2, 6, 3, 4), array(6, 4, 5)]),
    "exp": (lambda a: a.exp(), lambda a: a.exp(), [array(5)]),
    "log": (lambda a: a.log(), lambda a: a.log(), [np.abs(array(5)) + 0.5]),
    "tanh": (lambda a: a.tanh(), lambda a: a.tanh(), [array(5)]),
    "sum": (lambda a: a.sum(), lambda a: a.sum(), [array(3, 4)]),
    "sum axis": (lambda a: a.sum(axis=1), lambda a: a.sum(dim=1), [array(3, 4, 2)]),
    "mean keepdims": (lambda a: a.mean(-1, keepdims=True), lambda a: a.mean(-1, keepdim=True), [array(3, 4)]),
    "reshape": (lambda a: a.reshape(2, 6), lambda a: a.reshape(2, 6), [array(3, 4)]),
    "transpose": (lambda a: a.transpose(0, 2), lambda a: a.transpose(0, 2), [array(2, 3, 4)]),
    "slice": (lambda a: a[:, 1:3], lambda a: a[:, 1:3], [array(3, 4)]),
    "index with repeats": (lambda a: embedding(a, IDS), lambda a: a[IDS], [array(5, 3)]),
    "used twice": (lambda a: a * a + a, lambda a: a * a + a, [array(4)]),
    "softmax": (softmax, lambda a: torch.softmax(a, -1), [array(3, 5)]),
    "log_softmax": (log_softmax, lambda a: torch.log_softmax(a, -1), [array(3, 5)]),
    "gelu": (gelu, lambda a: torch.nn.functional.gelu(a, approximate="tanh"), [array(3, 5)]),
    "layer_norm": (
        layer_norm,
        lambda x, w, b: torch.nn.functional.layer_norm(x, (5,), w, b),
        [array(2, 3, 5), array(5), array(5)],
    ),
    "cross_entropy": (
        lambda a: cross_entropy(a, LABELS),
        lambda a: torch.nn.functional.cross_entropy(a.reshape(-1, 5), torch.tensor(LABELS).reshape(-1)),
        [array(2, 3, 5)],
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_value_and_gradients_equal_torch(name, parity):
    ours, theirs, inputs = OPERATIONS[name]
    mine = [Tensor(x, requires_grad=True) for x in inputs]
    torchs = [torch.tensor(x, requires_grad=True) for x in inputs]
    y, z = ours(*mine), theirs(*torchs)
    weights = np.random.default_rng(1).normal(size=y.shape)
    (y * weights).sum().backward()
    (z * torch.tensor(weights)).sum().backward()
    np.testing.assert_allclose(y.data, z.detach(), rtol=1e-12, atol=1e-14)
    assert all(a.grad.shape == b.grad.shape for a, b in zip(mine, torchs, strict=True))
    gradients = ([x.grad.ravel() for x in mine], [x.grad.numpy().ravel() for x in torchs])
    why = "float64: rounding of a few operations on values around 1"
    parity.close(f"gradient of {name}", "torch autograd", *map(np.concatenate, gradients), 1e-12, why)


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_equal_central_differences(name):
    ours, _, inputs = OPERATIONS[name]
    tensors = [Tensor(x, requires_grad=True) for x in inputs]
    shape = ours(*tensors).shape
    weights = np.random.default_rng(2).normal(size=shape)

    def value(arrays):
        return (ours(*map(Tensor, arrays)).data * weights).sum()

    (ours(*tensors) * weights).sum().backward()
    for position, tensor in enumerate(tensors):
        for index in np.random.default_rng(3).permutation(tensor.size)[:6]:
            moved = []
            for steps in (1, -1, 2, -2):
                arrays = [x.copy() for x in inputs]
                arrays[position].flat[index] += steps * 1e-3
                moved.append(value(arrays))
            # Two central differences, so that their errors of second order cancel (Richardson): what is left is of
            # order h^4 = 1e-12, and rounding over h, 1e-13.
            slope = (8 * (moved[0] - moved[1]) - (moved[2] - moved[3])) / 12e-3
            assert slope == pytest.approx(tensor.grad.flat[index], rel=1e-8, abs=1e-10)


def test_no_grad_remembers_nothing():
    a = Tensor([1.0, 2.0], requires_grad=True)
    with no_grad():
        b = (a * 2).sum()
    assert not b.requires_grad
    with pytest.raises(ValueError, match="requires_grad is False"):
        b.backward()


def test_gradients_add_up_over_backwards_and_constants_get_none():
    a, c = Tensor([3.0], requires_grad=True), Tensor([5.0])
    (a * c).sum().backward()
    (a * c).sum().backward()
    assert a.grad.tolist() == [10.0]
    assert c.grad is None


def test_a_deep_graph_needs_no_recursion():
    a = x = Tensor([1.0], requires_grad=True)
    for _ in range(20_000):
        x = x + 1.0
    x.sum().backward()
    assert a.grad.tolist() == [1.0]


def test_dropout_keeps_the_mean_and_its_gradient_is_its_mask():
    x = Tensor(np.ones(100_000), requires_grad=True)
    y = dropout(x, 0.25, np.random.default_rng(0))
    assert y.data.mean() == pytest.approx(1.0, abs=0.01)  # six standard errors
    assert set(np.unique(y.data)) == {0.0, 1 / 0.75}
    y.sum().backward()
    assert np.array_equal(x.grad, y.data)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda: Tensor([1.0, 2.0], requires_grad=True).backward(), r"single number, not a shape of \(2,\)"),
        (lambda: Tensor([1.0]) @ Tensor([[1.0]]), r"two axes a side, not shapes \(1,\) and \(1, 1\)"),
        (lambda: Tensor(np.ones((2, 3))) @ Tensor(np.ones((2, 3))), r"\(2, 3\) and \(2, 3\): the inner sizes"),
        (lambda: embedding(Tensor(np.ones((4, 2))), np.array([1, -1])), r"id -1 is outside the vocabulary of 4"),
        (lambda: embedding(Tensor(np.ones((4, 2))), np.array([4])), r"id 4 is outside the vocabulary of 4 \(0 to 3\)"),
        (lambda: cross_entropy(Tensor(np.ones((2, 3))), np.array([0, 3])), "label 3 is outside the 3 classes"),
        (lambda: cross_entropy(Tensor(np.ones((2, 3))), np.array([-100, -100])), "nothing to train on"),
        (lambda: cross_entropy(Tensor(np.ones((2, 3))), np.array([0])), r"labels have shape \(1,\)"),
        (lambda: dropout(Tensor([1.0]), 1.0, RNG), "dropout p=1.0"),
    ],
)
def test_mistakes_name_the_value(mistake, message):
    with pytest.raises(ValueError, match=message):
        mistake()


@pytest.mark.parametrize("operation", [np.add, np.subtract, np.multiply, np.divide, np.matmul])
def test_an_array_on_the_left_keeps_the_graph(operation):
    x, values = Tensor(array(2, 2) + 5, requires_grad=True), array(2, 2)
    by_operator = {
        np.add: lambda: values + x,
        np.subtract: lambda: values - x,
        np.multiply: lambda: values * x,
        np.divide: lambda: values / x,
        np.matmul: lambda: values @ x,
    }[operation]()
    assert isinstance(by_operator, Tensor)
    assert by_operator.requires_grad
    np.testing.assert_allclose(by_operator.data, operation(values, x.data))


def test_size_is_the_number_of_elements():
    assert Tensor(np.ones((3, 4))).size == 12
    assert np.asarray(Tensor([1.0, 2.0])).tolist() == [1.0, 2.0]
