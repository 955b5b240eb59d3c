"""Quantising and dequantising: by hand, against the plain search, published errors, and what is refused."""

import time

import pytest
import torch

from course_lib.errors import CourseError
from course_lib.quantization import QUANT_TYPES, quantize_4bit
from course_lib.quantization.codes import codebook, encode, encode_8bit
from course_lib.quantization.levels import LEVELS, dynamic_map

CPU = torch.device("cpu")


def test_worked_block():
    """16 weights, of which 2 is the largest: 2 / 2 is level 15, -2 / 2 level 0, 0.3 / 2 = 0.15 is nearest to 0.1609."""
    weight = torch.zeros(16)
    weight[:3] = torch.tensor([2.0, -2.0, 0.3])
    quantized = quantize_4bit(weight, block_size=16)
    assert quantized.packed.tolist() == [0xF0, 0x97, *[0x77] * 6]  # the first code is in the high nibble; 7 is zero
    assert quantized.absmax.tolist() == [2.0]
    levels = LEVELS["nf4"]()
    assert quantized.dequantize().tolist() == [2.0, -2.0, 2 * levels[9].item(), *[0.0] * 13]


@pytest.mark.parametrize("quant_type", QUANT_TYPES)
def test_the_tables_find_what_the_search_finds(quant_type):
    """Random numbers, every boundary, and the floats beside it: the rank is the number of boundaries below."""
    levels, order = LEVELS[quant_type]().sort(stable=True)
    boundaries = (levels[:-1] + levels[1:]) / 2
    beside = [torch.nextafter(boundaries, torch.tensor(end)) for end in (-2.0, 2.0)]
    random = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = torch.cat([random, boundaries, *beside, levels, torch.tensor([-1.0, 1.0, 0.0, -0.0, 1e-30, -1e-30])])
    x = x[: len(x) // 2 * 2]
    codes = order[torch.searchsorted(boundaries, x)]
    assert torch.equal(encode(x, quant_type), (codes[0::2] << 4 | codes[1::2]).to(torch.uint8))


def test_a_level_is_its_own_code():
    """Quantising dequantised weights again gives the same codes."""
    for quant_type in QUANT_TYPES:
        once = quantize_4bit(torch.randn(64, 64), quant_type)
        again = quantize_4bit(once.dequantize(), quant_type)
        assert torch.equal(once.absmax, again.absmax)
        assert torch.equal(once.dequantize(), again.dequantize())


def test_the_nearest_8_bit_value_but_for_the_grid():
    values = dynamic_map()
    x = torch.rand(10_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    chosen = values[encode_8bit(x).long()]
    nearest = (x[:, None] - values).abs().amin(dim=1)
    assert ((x - chosen).abs() - nearest).max() <= 2 / 65535
    is_coarse = values.abs() > 1e-4  # smaller values than the grid's step cannot be told apart
    assert torch.equal(encode_8bit(values)[is_coarse], torch.arange(256, dtype=torch.uint8)[is_coarse])


# The mean absolute and relative error on N(0, 1) at block 64, as they were published. With 4 million draws the standard
# error is below 5e-5.
PUBLISHED = {"nf4": (0.0728, 0.203), "fp4": (0.0965, 0.260), "int4": (0.0913, None)}


@pytest.mark.parametrize("quant_type", QUANT_TYPES)
def test_published_errors(quant_type):
    """The relative error is the mean of ``|error| / |weight|``, as in bitsandbytes' own tests."""
    weight = torch.randn(2048, 2048, generator=torch.Generator().manual_seed(0))
    error = (quantize_4bit(weight, quant_type).dequantize() - weight).abs()
    absolute, relative = PUBLISHED[quant_type]
    assert error.mean().item() == pytest.approx(absolute, abs=2e-4)
    if relative is not None:
        assert (error / weight.abs()).mean().item() == pytest.approx(relative, abs=5e-3)


def test_published_bits():
    """Constants take 0.5 bits of a weight, and 0.127 with double quantisation: 0.373 less (section 3)."""
    weight = torch.zeros(4096, 4096)
    single, double = quantize_4bit(weight).bits_per_parameter, quantize_4bit(weight, double_quant=True)
    assert single == 4.5
    assert double.bits_per_parameter == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-5)  # and one mean
    saved = single - double.bits_per_parameter
    assert saved == pytest.approx(0.373, abs=5e-4)
    assert saved * 65e9 / 8 / 1e9 == pytest.approx(3.03, abs=0.005)  # GB of a model with 65 billion weights
    assert double.nbytes == 4096 * 4096 // 2 + 4096 * 64 + 4096 * 64 // 256 * 4 + 4


def test_double_quantisation_moves_the_constants_little():
    weight = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
    single, double = quantize_4bit(weight), quantize_4bit(weight, double_quant=True)
    assert torch.equal(single.packed, double.packed)
    moved = ((double.constants() - single.absmax) / single.absmax).abs()
    assert moved.mean() < 0.003
    assert moved.max() < 0.015


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("shape", [(1,), (5,), (16,), (37, 37), (3, 700), (2, 3, 50), (1100, 1000)])
def test_any_shape(shape, double_quant):
    """Blocks run over rows, the last may be short, and a number never depends on what is in another block."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for quant_type in QUANT_TYPES:
        quantized = quantize_4bit(weight, quant_type, 64, double_quant)
        back = quantized.dequantize()
        assert back.shape == weight.shape
        assert back.dtype == weight.dtype
        assert len(quantized.packed) == (weight.numel() + 1) // 2
        assert len(quantized.absmax) == -(-weight.numel() // 64)
        flat, whole = back.flatten(), weight.flatten()
        for start in range(0, len(flat), 64 * 97):
            alone = quantize_4bit(whole[start : start + 64], quant_type)
            if not double_quant and len(alone.packed) == 32:
                assert torch.equal(alone.dequantize(), flat[start : start + 64])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    """A product in float32 that is rounded once, whatever the dtype."""
    weight = torch.randn(100, 96, generator=torch.Generator().manual_seed(0)).to(dtype)
    quantized = quantize_4bit(weight)
    assert quantized.dequantize().dtype == dtype
    assert torch.equal(quantized.packed, quantize_4bit(weight.float()).packed)
    assert torch.equal(quantized.dequantize(), quantized.dequantize(torch.float32).to(dtype))


def test_a_transposed_weight_is_quantised_in_its_logical_order():
    weight = torch.randn(96, 64)
    assert torch.equal(quantize_4bit(weight.T).packed, quantize_4bit(weight.T.contiguous()).packed)


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("quant_type", QUANT_TYPES)
def test_zeros_stay_zeros(quant_type, double_quant):
    """Blocks of zeros, whole and short, among others and alone: 0 / 0 would be NaN."""
    weight = torch.zeros(5, 100)
    assert torch.equal(quantize_4bit(weight, quant_type, 64, double_quant).dequantize(), weight)
    weight[0] = torch.randn(100)
    back = quantize_4bit(weight, quant_type, 64, double_quant).dequantize()
    assert back.isfinite().all()
    assert torch.equal(back[2:], weight[2:])


def test_one_outlier_costs_its_own_block_alone():
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    outlier = weight.clone()
    outlier[1, 3] = 1000.0
    before, after = (quantize_4bit(w).dequantize() for w in (weight, outlier))
    assert torch.equal(before[[0, 2, 3]], after[[0, 2, 3]])
    assert (after[1] == 0).sum() == 63  # everything else in its block is nearest to zero


@pytest.mark.parametrize(
    ("weight", "options", "said"),
    [
        (torch.ones(64), {"quant_type": "nf3"}, "There is no 4-bit kind 'nf3': choose one of nf4, fp4, int4."),
        (torch.ones(64), {"block_size": 48}, "A block of 48 weights is not possible"),
        (torch.ones(64), {"block_size": 8}, "A block of 8 weights is not possible"),
        (torch.ones(64), {"block_size": 64.0}, "A block of 64.0 weights is not possible"),
        (torch.full((64,), torch.nan), {}, "NaN or infinity"),
        (torch.cat([torch.ones(64), torch.tensor([torch.inf])]), {}, "NaN or infinity"),
        (torch.cat([torch.ones(1_200_000), torch.tensor([-torch.inf]), torch.ones(63)]), {}, "NaN or infinity"),
        (torch.ones(64, dtype=torch.int64), {}, "a tensor of torch.int64"),
        ([1.0], {}, "this is list"),
        (torch.ones(0, 4), {}, "the shape (0, 4)"),
        (torch.ones(64, device="meta"), {}, "on the meta device"),
    ],
)
def test_refused(weight, options, said):
    with pytest.raises(CourseError) as error:
        quantize_4bit(weight, **options)
    assert said in str(error.value)
    assert str(error.value).count("\n") == 0


def test_the_tables_of_a_kind_are_made_once():
    assert codebook("nf4", CPU) is codebook("nf4", CPU)


def test_dequantising_costs_less_than_the_search_by_far():
    """A bound on speed, as ratios of this thread's processor time: the search by itself takes 20 to 40 ns for a number.

    Idle, quantising takes a third to two thirds of it and dequantising a tenth; beside other work a cache is shared.
    """
    weight = torch.randn(1 << 20)
    quantized, x = quantize_4bit(weight), weight.clamp(-1, 1)
    boundaries = LEVELS["nf4"]()[:-1].contiguous()
    rounds = [
        [
            _seconds(lambda: torch.searchsorted(boundaries, x)),
            _seconds(lambda: quantize_4bit(weight)),
            _seconds(quantized.dequantize),
        ]
        for _ in range(5)
    ]
    search, quantising, dequantising = map(min, zip(*rounds, strict=True))
    assert quantising < 1.2 * search
    assert dequantising < 0.4 * search


def _seconds(work):
    begun = time.thread_time()  # the tests compute on one thread
    work()
    return time.thread_time() - begun
