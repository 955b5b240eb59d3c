"""The settings of a run: defaults by mode, and names that agree with the rooms that use them."""

import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from course_lib.commands.train import default_output
from course_lib.errors import CourseError
from course_lib.finetuning.memory import BYTES
from course_lib.finetuning.model import adapt, shape_of
from course_lib.finetuning.plan import make_plan
from course_lib.finetuning.settings import check_files, complete
from course_lib.models.pretrained import DEFAULT
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


# --- settings that depend on others ---


def test_gpt2s_layers_mean_gpt2():
    """As in the commands that name c_attn and no model: their program's default model was distilgpt2."""
    assert complete({"target_modules": ("c_attn", "c_proj")}).model == "distilgpt2"
    assert complete({"target_modules": ("attn.c_proj",)}).model == "distilgpt2"
    assert complete({"target_modules": ("c_attn",), "model": "other"}).model == "other"
    assert complete({"target_modules": ("q_proj",)}).model == complete({}).model == DEFAULT


@pytest.mark.parametrize(
    ("given", "every"),
    [
        ({}, 0),
        ({"eval_every": 7}, 7),
        ({"eval_strategy": "no"}, 0),
        ({"eval_strategy": "steps", "eval_every": 250}, 250),
        ({"eval_strategy": "steps"}, 10),  # as often as it logs, like transformers
        ({"eval_strategy": "steps", "log_every": 50}, 50),
    ],
)
def test_when_to_evaluate(given, every):
    assert complete(given).eval_every == every


def test_evaluation_after_each_epoch(models, text):
    """Three passes: after each of them, whatever a pass has of steps."""
    given = {"model": str(models / "llama"), "dataset": str(text), "seq_len": 32, "mode": "full"}
    for accumulate in (1, 2):
        epochs = {"epochs": 3.0, "eval_strategy": "epoch", "grad_accum_steps": accumulate}
        plan = make_plan(complete(given | epochs))
        assert plan.settings.eval_every == round(plan.batches.per_pass / accumulate)
        assert math.ceil(plan.steps / plan.settings.eval_every) == 3, "the last evaluation is that of the last step"
    short = make_plan(complete(given | {"steps": 2, "epochs": None, "eval_strategy": "epoch"}))
    assert short.settings.eval_every == short.batches.per_pass > 2, "less than a pass: only after the last step"


def test_default_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {
        "keepers_log": "lora-keepers_log",
        "data/my notes.v2.txt": "lora-my_notes_v2",
        "data/shards/": "lora-shards",
        ".": f"lora-{tmp_path.name}",
        "org/set": "lora-set",
    }
    for dataset, name in names.items():
        assert default_output({"dataset": dataset}) == Path("runs", name)
    assert default_output({"mode": "butterfly-block"}) == Path("runs", "butterfly-block-keepers_log")


# --- what is said before torch is imported ---


def test_files_that_are_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    check_files(complete({"dataset": "nowhere.txt", "model": "some/name", "tokenizer": "gpt2", "weights": "notes.txt"}))
    cases = [
        ({"tokenizer": "bpe.json"}, "--tokenizer bpe.json: there is no such file or folder."),
        ({"model": "/nowhere"}, "--model /nowhere: there is no such file or folder."),
        ({"model": "~/nowhere"}, "--model ~/nowhere: there is no such file or folder."),
        ({"weights": "note.txt"}, "--weights note.txt: there is no such file. Did you mean notes.txt?"),
    ]
    for given, message in cases:
        with pytest.raises(CourseError, match=re.escape(message)):
            check_files(complete(given))


SIMPLE_MISTAKES = [
    "train --stepps 5",
    "train --steps 5 --epochs 1",
    "train --dataset nowhere.txt",
    "train --output nowhere --resume",
    "train --weights nowhere.pt",
    "compare --adapter nowhere",
    "compare --adapter nowhere --samples 0",
    "merge --adapter nowhere --output x",
    "adapters info nowhere",
    "adapters export nowhere --output x",
    "align run gpt2-lora --steps 1 --epochs 1",
    "align run gpt2-lora --data nowhere.txt",
    "align run gpt2-lora --init nowhere",
    "align compare nowhere nowhere",
]


def test_simple_mistakes_do_not_wait_for_torch(tmp_path):
    """All in one process: torch takes seconds to import, and none of these needs it."""
    code = f"""
import sys
from course_lib.cli import main
for line in {SIMPLE_MISTAKES!r}:
    try:
        status = main(line.split())
    except SystemExit as done:
        status = done.code
    assert status == 2, line
    found = {{"torch", "transformers", "safetensors", "peft"}} & set(sys.modules)
    assert not found, (line, found)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
