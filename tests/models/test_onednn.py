"""oneDNN's products, and when they are taken."""

import contextlib

import pytest
import torch

from course_lib.adapters import inject_lora
from course_lib.models import onednn
from course_lib.models.config import DecoderConfig
from course_lib.models.decoder import Decoder

needed = pytest.mark.skipif(not onednn.has_onednn(), reason="this torch has no oneDNN")
# Sums of 64 products of about 1, in float32, in another order; in bfloat16 the last of eight bits of results up to 32.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.2}


def drawn(*shapes, dtype=torch.float32):
    numbers = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=numbers).to(dtype) for shape in shapes]


@needed
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 33])
def test_linear_and_added(rows, packed):
    x, weight, total, bias = drawn((rows, 64), (48, 64), (rows, 48), (48,))
    before = total.clone()
    stored = onednn.pack(weight) if packed else weight
    torch.testing.assert_close(onednn.linear(x, stored), x @ weight.T, atol=1e-4, rtol=0)
    torch.testing.assert_close(onednn.linear(x, stored, bias), x @ weight.T + bias, atol=1e-4, rtol=0)
    torch.testing.assert_close(onednn.added(total, x, stored), total + x @ weight.T, atol=1e-4, rtol=0)
    assert torch.equal(total, before)


@needed
def test_packing_is_undone_exactly():
    (weight,) = drawn((48, 64))
    packed = onednn.pack(weight)
    assert torch.equal(packed.to_dense(), weight)
    assert packed.nbytes == weight.nbytes


@pytest.mark.parametrize("faster", [False, True])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_products_are_the_same_by_either_library(monkeypatch, faster, dtype):
    if faster and not onednn.has_onednn():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(onednn, "is_faster", lambda: faster)
    a, b, total, bias = drawn((256, 64), (64, 128), (256, 128), (128,), dtype=dtype)
    close = {"atol": TOLERANCE[dtype], "rtol": 0}
    with onednn.fast_products():
        assert onednn.takes(a, 128) == (faster and dtype == torch.float32)
        torch.testing.assert_close(onednn.times(a, b), a @ b, **close)
        torch.testing.assert_close(onednn.times(b.T, a.T), (a @ b).T, **close)  # neither lies in rows
        torch.testing.assert_close(onednn.project(a, b.T, bias), a @ b + bias, **close)
        torch.testing.assert_close(onednn.add_times(total.clone(), a, b), total + a @ b, **close)


def test_small_products_and_other_dtypes_stay_torchs(monkeypatch):
    monkeypatch.setattr(onednn, "is_faster", lambda: True)
    a = torch.ones(256, 64)
    assert not onednn.takes(a, 128)
    with onednn.fast_products():
        assert onednn.takes(a, 128)
        assert not onednn.takes(a[:8], 4096)
        assert not onednn.takes(a, 8)
        assert not onednn.takes(a.double(), 128)
    assert not onednn.takes(a, 128)


@needed
@pytest.mark.parametrize("gradients", [True, False])
def test_a_model_gives_the_same_with_either(monkeypatch, gradients):
    """The loss, and the gradient of each weight: of about 1e-2, by sums in another order."""
    monkeypatch.setattr(onednn, "is_faster", lambda: True)
    torch.manual_seed(0)
    model = Decoder(DecoderConfig("llama", 128, 128, 2, 4, 256, 128, 2))
    inject_lora(model, ["q_proj", "down_proj"], rank=4, alpha=8)
    model.requires_grad_(True)
    ids = torch.randint(0, 128, (4, 64), generator=torch.Generator().manual_seed(0))
    found = []
    for products in (contextlib.nullcontext(), onednn.fast_products()):
        model.zero_grad()
        with products, torch.set_grad_enabled(gradients):
            loss = model(ids, labels=ids).loss
            if gradients:
                loss.backward()
        found.append([loss.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)])
    assert any(not torch.equal(one, other) for one, other in zip(*found, strict=True)) or not gradients
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
