"""Measurements of a model that was left in training mode: without dropout, and every layer's mode is put back."""

import numpy as np
import pytest
import torch
from torch import nn

from course_lib.alignment.pairs import Pairs
from course_lib.alignment.reference import compute_reference
from course_lib.errors import CourseError
from course_lib.evaluation import evaluate
from course_lib.inference import make_cache
from course_lib.inference.long_text import token_losses, token_losses_recomputed
from course_lib.models.config import DecoderConfig
from course_lib.models.decoder import Decoder
from course_lib.models.modes import evaluating
from course_lib.quantization.calibrated import collect_hessians

ROWS = np.random.default_rng(0).integers(0, 97, (4, 12))
TEXT = ROWS.flatten().tolist()
PAIR = {"prompt": [1, 2], "chosen": [3, 4], "rejected": [5], "input_ids": [1, 2, 3, 4, 5]}

MEASUREMENTS = {
    "evaluate": lambda model: torch.tensor(evaluate(model, ROWS, accuracy=True).loss),
    "token_losses": lambda model: token_losses(model, TEXT, make_cache("dynamic", model, 64), block=8),
    "token_losses_recomputed": lambda model: token_losses_recomputed(model, TEXT, window=16, block=8),
    "collect_hessians": lambda model: collect_hessians(model, [torch.as_tensor(ROWS)], ["c_fc"])[
        "model.layers.1.mlp.c_fc"
    ],
    "compute_reference": lambda model: compute_reference(model, Pairs([PAIR]))[0],
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Decoder(DecoderConfig("gpt2", 97, 16, 2, 2, 64, dropout=0.5))


def modes(model):
    return {name: module.training for name, module in model.named_modules()}


@pytest.mark.parametrize("measure", MEASUREMENTS.values(), ids=MEASUREMENTS)
def test_a_model_in_training_mode_is_measured_without_dropout(model, measure):
    expected = measure(model.eval())
    model.train()
    model.model.layers[0].eval()  # a block that was switched by itself stays so
    before, state = modes(model), torch.get_rng_state()
    assert torch.equal(measure(model), expected)
    assert modes(model) == before
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn"


FAILURES = {
    "evaluate": lambda model: evaluate(model, np.full((1, 8), 97)),
    "token_losses": lambda model: token_losses(model, [1] * 80, make_cache("dynamic", model, 80), block=80),
    "token_losses_recomputed": lambda model: token_losses_recomputed(model, [1] * 80, window=80, block=80),
}


@pytest.mark.parametrize("measure", FAILURES.values(), ids=FAILURES)
def test_after_an_error_the_modes_are_put_back(model, measure):
    model.model.layers[0].eval()
    before = modes(model)
    with pytest.raises(CourseError):
        measure(model)
    assert modes(model) == before
    assert model.training


def test_a_mode_that_is_changed_inside_is_put_back(model):
    model.eval()
    with evaluating(model):
        model.train()
    assert not any(modes(model).values())


def test_what_happens_inside_is_seen_and_what_is_put_on_stays(model):
    with evaluating(model) as same:
        assert same is model
        assert not any(modes(model).values())
        model.model.extra = nn.Dropout().eval()
    assert not model.model.extra.training
    assert all(layer.training for layer in model.model.layers)
