"""The settings of a run: defaults by mode, and names that agree with the rooms that use them."""

from dataclasses import replace

import pytest

from course_lib.errors import CourseError
from course_lib.finetuning.memory import BYTES
from course_lib.finetuning.model import adapt, shape_of
from course_lib.finetuning.settings import complete
from course_lib.vocabulary import DTYPES


def test_defaults_are_the_guides():
    lora, full, fly = (complete({"mode": mode}) for mode in ("lora", "full", "butterfly"))
    assert (lora.rank, lora.alpha, lora.lr, lora.steps, lora.grad_accum_steps, lora.min_lr_ratio) == (
        8,
        16,
        3e-4,
        500,
        4,
        0.1,
    )
    assert (full.lr, full.epochs, full.steps) == (5e-5, 1.0, None)
    assert (fly.lr, fly.butterfly_stages) == (1e-4, 6)
    assert (lora.keep * lora.checkpoint_every, full.keep) == (500, 2)  # all of a default run's, as the guide has it
    with pytest.raises(CourseError, match="Choose one of"):
        complete({"mode": "prefix"})


def test_the_dtypes_are_those_that_the_estimate_knows():
    assert tuple(BYTES) == DTYPES


def test_lora_counts_are_those_of_the_formula(capsys):
    """GPT-2 small, rank 8 on c_attn: 8 * (768 + 2304) = 24,576 a layer, 294,912 in all, 0.24 % of 124 million."""
    settings = replace(complete({"model": "gpt2", "from_scratch": True}), target_modules=("c_attn",))
    tokenizer = type("Tokenizer", (), {"vocab_size": 50_257})()
    model = shape_of(settings, tokenizer)
    total = sum(p.numel() for p in model.parameters())
    adapt(model, settings)
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    assert sum(trained) == 294_912
    assert set(map(sum, zip(trained[::2], trained[1::2], strict=True))) == {24_576}
    assert total == 124_439_808
