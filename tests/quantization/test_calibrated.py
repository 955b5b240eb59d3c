"""GPTQ: by hand, against round-to-nearest where both must agree, and on inputs of a model that was trained here."""

import itertools

import pytest
import torch

from course_lib.errors import CourseError
from course_lib.quantization import quantize_4bit
from course_lib.quantization.calibrated import collect_hessians, compare_rounding, gptq, output_error

KINDS = ("nf4", "fp4", "int4")


def test_two_columns_by_hand():
    """Steps of 1: the first weight, 7, is the block's constant. The two that follow are 0.4, their inputs correlated
    by 0.9, and the rest are zeros.

    Rounding to nearest gives (0, 0), an error of 0.4^2 (1 + 1 + 2 * 0.9) = 0.608. GPTQ rounds the first to 0, passes
    0.4 * 0.9 on to the second, and rounds 0.76 to 1: 0.4^2 + 0.6^2 - 2 * 0.9 * 0.4 * 0.6 = 0.088.
    """
    weight = torch.zeros(1, 16)
    weight[0, :3] = torch.tensor([7.0, 0.4, 0.4])
    hessian = torch.eye(16)
    hessian[1, 2] = hessian[2, 1] = 0.9
    nearest = quantize_4bit(weight, "int4", 16).dequantize()
    calibrated = gptq(weight, hessian, "int4", 16, damping=0).dequantize()
    torch.testing.assert_close(nearest[0, :3], torch.tensor([7.0, 0, 0]))
    torch.testing.assert_close(calibrated[0, :3], torch.tensor([7.0, 0, 1]))
    power = (weight @ hessian * weight).sum()
    assert output_error(weight, nearest, hessian) * power == pytest.approx(0.608)
    assert output_error(weight, calibrated, hessian) * power == pytest.approx(0.088)


@pytest.mark.parametrize("quant_type", KINDS)
@pytest.mark.parametrize("block_size", [16, 64])
def test_uncorrelated_inputs_make_it_round_to_nearest(quant_type, block_size):
    """A diagonal H: codes and constants are those of `quantize_4bit`, bit for bit, whatever the diagonal."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 128, generator=generator)
    hessian = torch.rand(128, generator=generator).add(0.1).diag()
    nearest, calibrated = quantize_4bit(weight, quant_type, block_size), gptq(weight, hessian, quant_type, block_size)
    assert torch.equal(nearest.packed, calibrated.packed)
    assert torch.equal(nearest.absmax, calibrated.absmax)
    assert nearest.nbytes == calibrated.nbytes


@pytest.mark.parametrize(("quant_type", "seed"), list(itertools.product(KINDS, range(5))))
def test_on_correlated_inputs_the_output_is_nearer(quant_type, seed):
    """256 inputs of 64 numbers that 16 causes explain for the most part, as activations of models are."""
    generator = torch.Generator().manual_seed(seed)
    causes, noise = torch.randn(256, 16, generator=generator), torch.randn(256, 64, generator=generator)
    x = causes @ torch.randn(16, 64, generator=generator) + 0.3 * noise
    weight, hessian = torch.randn(32, 64, generator=generator), x.T @ x
    nearest = output_error(weight, quantize_4bit(weight, quant_type, 32).dequantize(), hessian)
    calibrated = output_error(weight, gptq(weight, hessian, quant_type, 32).dequantize(), hessian)
    assert calibrated < 0.6 * nearest
    # The other side of it: each weight by itself lies farther from where it was.
    identity = torch.eye(64)
    assert output_error(weight, quantize_4bit(weight, quant_type, 32).dequantize(), identity) < output_error(
        weight, gptq(weight, hessian, quant_type, 32).dequantize(), identity
    )


def test_the_error_is_that_of_the_outputs():
    generator = torch.Generator().manual_seed(0)
    x, w, q = (torch.randn(*shape, generator=generator) for shape in [(40, 16), (8, 16), (8, 16)])
    expected = (x @ w.T - x @ q.T).square().sum() / (x @ w.T).square().sum()
    assert output_error(w, q, x.T @ x) == pytest.approx(float(expected), rel=1e-5)


def test_inputs_that_are_always_zero_and_too_few_inputs():
    """Fewer inputs than columns make H singular, and a dead input gives it a row of zeros: damping copes with both."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 32, generator=generator)
    x[:, 7] = 0
    weight = torch.randn(4, 32, generator=generator)
    assert gptq(weight, x.T @ x, "nf4", 16).dequantize().isfinite().all()


@pytest.fixture(scope="module")
def trained():
    """A Llama of a million parameters that has learned some of the course's text byte by byte, and rows of it."""
    from dataclasses import replace

    from course_lib.data.sources import style_corpus
    from course_lib.models.config import CONFIGS
    from course_lib.models.decoder import Decoder
    from course_lib.training import Trainer, TrainingConfig

    torch.manual_seed(0)
    text = torch.frombuffer(bytearray(style_corpus().encode()), dtype=torch.uint8).long()
    rows = text[: len(text) // 64 * 64].view(-1, 64)
    model = Decoder(replace(CONFIGS["modern-1m"], vocab_size=256))
    batches = [rows[torch.randint(0, len(rows) - 64, (8,))] for _ in range(80)]
    records = Trainer(model, TrainingConfig(lr=2e-3), log_every=0).train(batches)
    assert records[-1].loss < 0.7 * records[0].loss
    return model.eval(), rows[-64:]


def test_on_a_models_own_inputs_it_is_better_on_others_too(trained):
    """Calibrated on 32 rows of text, compared on 32 others: every layer's output is nearer than by rounding."""
    model, rows = trained
    hessians = collect_hessians(model, rows[:32].split(8), ["o_proj", "gate_proj", "down_proj"])
    others = collect_hessians(model, rows[32:].split(8), ["o_proj", "gate_proj", "down_proj"])
    assert len(hessians) == 3 * 4
    weights = {name: model.get_submodule(name).weight for name in hessians}
    for name, errors in compare_rounding(weights, hessians, others).items():
        assert errors["gptq"] < 0.9 * errors["nearest"], name
        assert errors["gptq_calibration"] < 0.9 * errors["nearest_calibration"], name


@pytest.mark.slow
@pytest.mark.weights
def test_on_smollm2s_inputs():
    """Its inputs and random weights: its own weights lie on Q4_1's grid (see `calibrated`). Calibrated on 512 tokens of
    the Keeper's Log and compared on 512 others, the error is less than half."""
    from course_lib.data.sources import style_corpus
    from course_lib.models.pretrained import load

    model, tokenizer = load()
    ids = torch.tensor(tokenizer(style_corpus())["input_ids"][:1024]).view(2, 512)
    targets = ["layers.0.self_attn.q_proj", "layers.15.self_attn.o_proj"]
    calibration, held_out = (collect_hessians(model, [row[None]], targets) for row in ids)
    torch.manual_seed(0)
    weights = {name: 0.02 * torch.randn(576, 576) for name in calibration}
    for name, errors in compare_rounding(weights, calibration, held_out).items():
        assert errors["gptq"] < 0.5 * errors["nearest"], (name, errors)


def test_hooks_leave_the_model_as_it_was(trained):
    model, rows = trained
    before = model(rows[:2]).logits
    found = collect_hessians(model, [rows[:2]], ["q_proj"])
    assert torch.equal(model(rows[:2]).logits, before)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(h, h.T) or torch.allclose(h, h.T) for h in found.values())


@pytest.mark.parametrize(
    ("weight", "hessian", "said"),
    [
        (torch.ones(4, 40), torch.eye(40), "multiple of the block size 16"),
        (torch.ones(4, 32), torch.eye(16), r"and this one is \(16, 16\)"),
        (torch.full((4, 32), torch.nan), torch.eye(32), "NaN or infinity"),
    ],
)
def test_bad_input(weight, hessian, said):
    with pytest.raises(CourseError, match=said):
        gptq(weight, hessian, "nf4", 16)
