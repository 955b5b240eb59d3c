"""What an assignment gives, and the reference answers of `qlora`, against bitsandbytes."""

import numpy as np
import pytest
import torch
from in_process import InProcess

from autograder.given import NF4, dequantized, quantized

BLOCK = 64
SHAPES = [(64, 64), (5, 7), (43, 3), (1, 1), (33, 96)]
# bitsandbytes compiles a function for an odd width, for seconds; where the width is a multiple of 16 and not of the
# block size, it takes the wrong constants (findings/bitsandbytes_dequantize_4bit_mixes_blocks_on_cpu.sh)
WIDTHS_IT_CAN = [(64, 64), (7, 6), (43, 2), (50, 22), (33, 64)]


@pytest.fixture(scope="module")
def answers():
    """The names of the assignment `qlora` with its reference answers executed."""
    return InProcess("qlora").names


def drawn(shape):
    """A float32 weight; a larger one has a block of zeros."""
    values = np.random.default_rng(list(shape)).normal(size=shape).astype(np.float32)
    if values.size > 2 * BLOCK:
        values.reshape(-1)[BLOCK : 2 * BLOCK] = 0
    return values


@pytest.fixture(params=SHAPES, ids=str)
def weight(request):
    """A weight of one of the shapes."""
    return drawn(request.param)


def theirs(weight, **options):
    """The weight as bitsandbytes quantises it, and its state."""
    functional = pytest.importorskip("bitsandbytes.functional")
    return functional.quantize_4bit(torch.from_numpy(weight), blocksize=BLOCK, quant_type="nf4", **options)


def whole_bytes(packed, weight):
    """The bytes of which both halves are codes: what is in the last half of an odd number of codes is not read."""
    return np.asarray(packed).reshape(-1)[: weight.size // 2]


def test_levels(answers):
    code = theirs(np.ones((1, 64), dtype=np.float32))[1].code
    np.testing.assert_array_equal(NF4.astype(np.float32), code.numpy())
    np.testing.assert_allclose(answers["nf_levels"](4), NF4, rtol=0, atol=1.2e-7)  # theirs were computed in float32
    assert not NF4.flags.writeable


def test_constants_and_bytes_are_theirs(weight, answers):
    packed, state = theirs(weight)
    mine, absmax = quantized(weight, BLOCK)
    np.testing.assert_array_equal(absmax, state.absmax.numpy())
    np.testing.assert_array_equal(whole_bytes(mine, weight), whole_bytes(packed, weight))
    constants = answers["block_absmax"](weight, BLOCK)
    np.testing.assert_array_equal(constants, state.absmax.numpy())
    codes = answers["nearest_codes"](weight, constants, NF4, BLOCK)
    np.testing.assert_array_equal(whole_bytes(answers["pack_codes"](codes), weight), whole_bytes(packed, weight))
    np.testing.assert_array_equal(answers["unpack_codes"](packed.numpy().reshape(-1), weight.size), codes)


@pytest.mark.parametrize("shape", WIDTHS_IT_CAN, ids=str)
def test_dequantised_weight_is_theirs(shape, answers):
    functional, weight = pytest.importorskip("bitsandbytes.functional"), drawn(shape)
    packed, state = theirs(weight)
    expected = functional.dequantize_4bit(packed, state).numpy()
    bytes_, absmax = packed.numpy().reshape(-1), state.absmax.numpy()
    mine = dequantized(bytes_, absmax, weight.shape, BLOCK)
    np.testing.assert_allclose(mine, expected, rtol=1.2e-7, atol=0)  # theirs rounds the product to float32
    codes = answers["unpack_codes"](bytes_, weight.size)
    np.testing.assert_array_equal(answers["dequantize"](codes, absmax, NF4, BLOCK, weight.shape), mine)


def test_the_steps_of_double_quantisation_are_theirs(answers):
    """The map differs and is said to: offset and scales are the same."""
    weight = np.random.default_rng(3).normal(size=(300, 64)).astype(np.float32)
    _, plain = theirs(weight)
    _, state = theirs(weight, compress_statistics=True)
    codes, scales, offset = answers["quantize_constants"](plain.absmax.numpy().astype(np.float64))
    assert offset == pytest.approx(state.offset.item(), rel=1e-6)
    np.testing.assert_allclose(scales, state.state2.absmax.numpy(), rtol=1e-5)
    assert state.state2.blocksize == 256
    assert codes.nbytes == state.absmax.numpy().nbytes == 300


@pytest.mark.parametrize("block_size", [1, 3, 16, 64])
def test_there_and_back(weight, block_size):
    packed, absmax = quantized(weight, block_size)
    back = dequantized(packed, absmax, weight.shape, block_size)
    each = absmax[np.arange(weight.size) // block_size].reshape(weight.shape)
    # the widest gap between two levels is below 0.31
    assert (np.abs(back - weight) <= 0.155 * each).all()
    again = quantized(back, block_size)
    np.testing.assert_array_equal(again[0], packed)
    np.testing.assert_array_equal(again[1], absmax)
