"""The NumPy edition of 4-bit quantisation: by hand, against the torch edition, and what is refused."""

import numpy as np
import pytest
import torch

from course_lib import quantization as torch_edition
from course_lib.quantization.levels import LEVELS as TORCH_LEVELS
from course_lib.scratch import dequantize_4bit, nf4_levels, quantize_4bit
from course_lib.scratch.quantization import LEVELS, dynamic_map


def test_the_levels_are_the_same_bits():
    for name, levels in LEVELS.items():
        assert np.array_equal(levels(), TORCH_LEVELS[name]().numpy()), name


def test_the_dynamic_map_is_the_same_but_for_the_last_bit():
    """torch.linspace computes several numbers at once, and how many depends on the processor."""
    np.testing.assert_allclose(dynamic_map(), torch_edition.dynamic_map().numpy(), rtol=2e-7)


def test_worked_block():
    weight = np.zeros(16, dtype=np.float32)
    weight[:3] = 2.0, -2.0, 0.3
    quantized = quantize_4bit(weight, block_size=16)
    assert quantized.packed.tolist() == [0xF0, 0x97, *[0x77] * 6]
    assert dequantize_4bit(quantized)[:4].tolist() == [2.0, -2.0, 2 * nf4_levels()[9], 0.0]


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("shape", [(1,), (37, 37), (128, 192), (3, 5, 100)])
@pytest.mark.parametrize("quant_type", list(LEVELS))
def test_both_editions_agree(quant_type, shape, double_quant):
    """Codes and constants bit for bit. With double quantisation the constants' mean may differ in its last bit."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for block_size in (16, 64, 256):
        ours = quantize_4bit(weight.numpy(), quant_type, block_size, double_quant)
        theirs = torch_edition.quantize_4bit(weight, quant_type, block_size, double_quant)
        assert np.array_equal(ours.packed, theirs.packed.numpy())
        assert ours.bits_per_parameter == theirs.bits_per_parameter
        back = dequantize_4bit(ours)
        assert back.dtype == np.float32
        if not double_quant:
            assert np.array_equal(ours.absmax, theirs.absmax.numpy())
            assert np.array_equal(back, theirs.dequantize().numpy())
        else:
            # A last bit of the mean can move a constant over the middle between two codes, but hardly two of them.
            assert (ours.absmax != theirs.absmax.numpy()).mean() <= 0.02
            np.testing.assert_allclose(ours.nested_offset, theirs.nested_offset.item(), rtol=3e-7)
            np.testing.assert_allclose(ours.nested_absmax, theirs.nested_absmax.numpy(), rtol=1e-5, atol=3e-7)


def test_zeros():
    for double_quant in (False, True):
        assert not dequantize_4bit(quantize_4bit(np.zeros((5, 100)), double_quant=double_quant)).any()


@pytest.mark.parametrize(
    ("weight", "options", "said"),
    [
        (np.ones(64), {"quant_type": "nf3"}, "no 4-bit kind 'nf3'"),
        (np.ones(64), {"block_size": 48}, "A block of 48"),
        (np.ones(64), {"block_size": 8}, "A block of 8"),
        (np.full(64, np.nan), {}, "finite"),
        (np.full(64, -np.inf), {}, "finite"),
        (np.ones(64, dtype=int), {}, "array of int64"),
        (np.ones((0, 3)), {}, r"shape \(0, 3\)"),
    ],
)
def test_refused(weight, options, said):
    with pytest.raises(ValueError, match=said):
        quantize_4bit(weight, **options)
