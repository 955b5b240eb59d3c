"""The 4-bit layer: values, gradients, what is kept, moving, saving and loading, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from course_lib.errors import CourseError
from course_lib.quantization import Linear4bit, quantize_4bit


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(96, 40)


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("quant_type", ["nf4", "fp4", "int4"])
def test_it_computes_with_the_dequantised_weight(layer, quant_type, double_quant):
    made = Linear4bit.from_plain(layer, quant_type, 32, double_quant)
    x = torch.randn(2, 5, 96)
    weight = quantize_4bit(layer.weight, quant_type, 32, double_quant).dequantize()
    assert torch.equal(made(x), nn.functional.linear(x, weight, layer.bias))  # the same product of the same numbers
    assert torch.equal(made.weight, weight)


def test_gradient_by_formula_and_by_finite_differences(layer):
    """dx = dy W, dy summed for the bias where it is wanted; and double precision for the differences."""
    made = Linear4bit.from_plain(layer)
    x = torch.randn(3, 5, 96, requires_grad=True)
    dy = torch.randn(3, 5, 40)
    made(x).backward(dy)
    assert torch.equal(x.grad, dy @ made.weight)
    assert made.bias.grad is None
    made.bias.requires_grad_(True)
    made(x).backward(dy)
    torch.testing.assert_close(made.bias.grad, dy.sum((0, 1)))
    double = Linear4bit.from_plain(nn.Linear(16, 8).double())
    assert torch.autograd.gradcheck(double, torch.randn(2, 16, dtype=torch.float64, requires_grad=True))


def test_the_backward_pass_keeps_neither_x_nor_the_weight(layer):
    made, kept = Linear4bit.from_plain(layer), []
    x = torch.randn(7, 96, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        made(x)
    assert kept == []


def test_conv1d():
    """transformers' Conv1D stores W as (in, out): quantised as (out, in), and given back as it was."""
    torch.manual_seed(0)
    layer = Conv1D(48, 32)
    made = Linear4bit.from_plain(layer)
    x = torch.randn(5, 32)
    plain = made.to_plain()
    assert isinstance(plain, Conv1D)
    assert plain.weight.shape == layer.weight.shape
    assert (made.out_features, made.in_features) == (48, 32)
    assert torch.equal(made.quantized.packed, quantize_4bit(layer.weight.T).packed)
    torch.testing.assert_close(plain(x), made(x))  # two products in another order
    assert made.weight.shape == layer.weight.shape


def test_to_plain_computes_the_same(layer):
    made = Linear4bit.from_plain(layer).eval()
    plain = made.to_plain()
    x = torch.randn(4, 96)
    assert type(plain) is nn.Linear
    assert not plain.training
    assert torch.equal(plain(x), made(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_compute_dtype(layer, dtype):
    """The product is computed in it, and the result has x's dtype."""
    made = Linear4bit.from_plain(layer, compute_dtype=dtype)
    x = torch.randn(4, 96)
    y = made(x)
    expected = nn.functional.linear(x.to(dtype), made.quantized.dequantize(dtype), layer.bias.to(dtype))
    assert y.dtype == torch.float32
    assert torch.equal(y, expected.float())
    assert Linear4bit.from_plain(layer)(x.to(dtype)).dtype == dtype  # None: x's own


def test_autocast(layer):
    """As nn.Linear does, the layer computes in autocast's dtype and gives it back; a dtype of its own goes first."""
    x = torch.randn(4, 96, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = Linear4bit.from_plain(layer)(x)
        exact = Linear4bit.from_plain(layer, compute_dtype=torch.float32)(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert x.grad.dtype == torch.float32
    assert torch.equal(exact, Linear4bit.from_plain(layer)(x))


def test_constants_keep_their_precision_when_the_model_is_cast(layer):
    """model.to(bfloat16) rounds floating-point buffers, and constants rounded to 8 bits would move every weight."""
    for double_quant in (False, True):
        made = Linear4bit.from_plain(layer, double_quant=double_quant)
        before = made.quantized.dequantize(torch.float32)
        made.to(torch.bfloat16)
        assert made.bias.dtype == torch.bfloat16
        assert torch.equal(made.quantized.dequantize(torch.float32), before)
        assert torch.equal(made.double().half().float().quantized.dequantize(torch.float32), before)


def test_the_meta_device(layer):
    made = Linear4bit.from_plain(layer, double_quant=True).to("meta")
    assert made.packed.is_meta
    assert made.nested_absmax.is_meta
    assert made.to_empty(device="cpu").absmax.dtype == torch.uint8


@pytest.mark.parametrize("double_quant", [False, True])
def test_state_dict(layer, double_quant):
    """It goes into another layer of the same kind, bit for bit, and not into one of another kind."""
    made = Linear4bit.from_plain(layer, double_quant=double_quant)
    other = Linear4bit.from_plain(nn.Linear(96, 40), double_quant=double_quant)
    other.load_state_dict(made.state_dict())
    x = torch.randn(4, 96)
    assert torch.equal(other(x), made(x))
    assert {tensor.dtype for tensor in made.state_dict().values()} <= {torch.uint8, torch.float32}
    for options in ({"quant_type": "fp4"}, {"block_size": 32}):
        wrong = Linear4bit.from_plain(nn.Linear(96, 40), double_quant=double_quant, **options)
        with pytest.raises(CourseError, match='quantised as .*"nf4", "block_size": 64'):
            wrong.load_state_dict(made.state_dict())


def test_no_parameter_but_the_bias_is_left(layer):
    made = Linear4bit.from_plain(layer)
    assert [name for name, _ in made.named_parameters()] == ["bias"]
    assert not made.bias.requires_grad
    stored = sum(buffer.nbytes for name, buffer in made.named_buffers() if name != "quant_state")
    assert stored == made.quantized.nbytes == 40 * 96 // 2 + 40 * 96 // 64 * 4


def test_copies_are_independent(layer):
    made = Linear4bit.from_plain(layer)
    other = copy.deepcopy(made)
    other.packed.zero_()
    assert not torch.equal(other.weight, made.weight)


def test_refused(layer):
    with pytest.raises(CourseError, match="quantised already"):
        Linear4bit.from_plain(Linear4bit.from_plain(layer))
    with pytest.raises(CourseError, match="Embedding is not a linear layer"):
        Linear4bit.from_plain(nn.Embedding(4, 4))
    with pytest.raises(CourseError, match="two axes"):
        Linear4bit(quantize_4bit(torch.ones(64)))
    with pytest.raises(CourseError, match=r"cannot compute in torch\.int8"):
        Linear4bit(quantize_4bit(torch.ones(8, 8)), compute_dtype=torch.int8)
