"""The Trainer: it learns, logs what it did, and stops at nonsense."""

import json
import math
import re

import numpy as np
import pytest
import torch

from course_lib.adapters import inject_lora
from course_lib.errors import CourseError
from course_lib.training import Trainer


def constant_batches(steps):
    return [np.tile(np.arange(16), (2, 1)) for _ in range(steps)]


def test_learns_a_sequence_and_logs_each_step(tiny_llama, tmp_path, capsys):
    path = tmp_path / "log" / "run.jsonl"
    records = Trainer(tiny_llama, lr=1e-2, warmup=3, log_every=10, log_path=path).train(constant_batches(30))
    assert records[0].loss == pytest.approx(math.log(97), rel=0.05)  # untrained: about uniform over 97 tokens
    assert records[-1].loss < 0.2
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["loss"] for entry in written] == [record.loss for record in records]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["step 0", "step 10", "step 20", "step 29"]
    pattern = r"step \d+ \| loss \d+\.\d+ \| lr \S+ \| norm \d+\.\d+ \| \d+ ms \| \d+ tok/s"
    assert all(re.fullmatch(pattern, line) for line in lines)


def test_same_seed_same_losses(tiny_llama):
    import copy

    twin = copy.deepcopy(tiny_llama)
    first, second = (Trainer(m, lr=1e-3, log_every=0).train(constant_batches(5)) for m in (tiny_llama, twin))
    assert [r.loss for r in first] == [r.loss for r in second]


def test_first_step_is_adamw_by_hand(tiny_llama):
    """Adam's first step moves a parameter by lr * sign(gradient), whatever the gradient's size (eps aside)."""
    inject_lora(tiny_llama, ["q_proj"], rank=2, alpha=2)
    b = next(p for name, p in tiny_llama.named_parameters() if name.endswith("q_proj.B"))
    Trainer(tiny_llama, lr=1e-3, log_every=0).train(constant_batches(1))
    torch.testing.assert_close(b.abs(), torch.full_like(b, 1e-3), rtol=5e-2, atol=0)  # eps beside gradients of 1e-6


def test_nan_stops_with_advice(tiny_llama):
    with torch.no_grad():
        tiny_llama.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(CourseError, match="step 0 is nan.*learning rate"):
        Trainer(tiny_llama, lr=1e-3).train(constant_batches(2))


def test_nothing_to_train_is_refused(tiny_llama):
    with pytest.raises(CourseError, match="Nothing to train"):
        Trainer(tiny_llama.requires_grad_(False), lr=1e-3)
