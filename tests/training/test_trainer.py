"""The Trainer: it learns, logs what it did, and stops at nonsense."""

import copy
import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from course_lib.adapters import inject_lora, lora_layers
from course_lib.data import IGNORE, pack, pad
from course_lib.errors import CourseError
from course_lib.training import CheckpointConfig, Trainer, TrainingConfig, read_log


def constant_batches(steps):
    return [np.tile(np.arange(16), (2, 1)) for _ in range(steps)]


def test_learns_a_sequence_and_logs_each_step(tiny_llama, tmp_path, capsys):
    path = tmp_path / "log" / "run.jsonl"
    records = Trainer(tiny_llama, TrainingConfig(lr=1e-2, warmup_steps=3), log_every=10, log_path=path).train(
        constant_batches(30)
    )
    assert records[0].loss == pytest.approx(math.log(97), rel=0.05)  # untrained: about uniform over 97 tokens
    assert records[-1].loss < 0.2
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["loss"] for entry in written] == [record.loss for record in records]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["step 0", "step 10", "step 20", "step 29"]
    pattern = r"step \d+ \| loss \d+\.\d+ \| lr \S+ \| norm \d+\.\d+ \| \d+ ms \| \d+ tok/s"
    assert all(re.fullmatch(pattern, line) for line in lines)


def test_same_seed_same_losses(tiny_llama):
    twin = copy.deepcopy(tiny_llama)
    first, second = (
        Trainer(m, TrainingConfig(lr=1e-3), log_every=0).train(constant_batches(5)) for m in (tiny_llama, twin)
    )
    assert [r.loss for r in first] == [r.loss for r in second]


def test_first_step_is_adamw_by_hand(tiny_llama):
    """Adam's first step moves a parameter by lr * sign(gradient), whatever the gradient's size (eps aside)."""
    inject_lora(tiny_llama, ["q_proj"], rank=2, alpha=2)
    b = next(layer.B for _, layer in lora_layers(tiny_llama))
    Trainer(tiny_llama, TrainingConfig(lr=1e-3), log_every=0).train(constant_batches(1))
    torch.testing.assert_close(b.abs(), torch.full_like(b, 1e-3), rtol=5e-2, atol=0)  # eps beside gradients of 1e-6


def test_nan_stops_with_advice(tiny_llama):
    with torch.no_grad():
        tiny_llama.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(CourseError, match="The loss at step 0 is nan\\. Lower the learning rate.*bfloat16.*the batch"):
        Trainer(tiny_llama, TrainingConfig(lr=1e-3)).train(constant_batches(2))


def overflowing(model, calls):
    """Makes the output layer's gradient infinite in the backward passes whose numbers (from 0) are in `calls`."""
    numbers = itertools.count()
    model.lm_head.weight.register_hook(lambda gradient: gradient * math.inf if next(numbers) in calls else gradient)


def test_an_infinite_gradient_stops_before_the_weights_change(tiny_llama, tmp_path):
    overflowing(tiny_llama, {2})
    points, log_path = CheckpointConfig(tmp_path / "points", every=1), tmp_path / "log.jsonl"
    trainer = Trainer(tiny_llama, TrainingConfig(lr=1e-3), checkpoints=points, log_every=0, log_path=log_path)
    with pytest.raises(CourseError, match=r"The gradient norm at step 2 is (inf|nan)\. Lower the learning rate"):
        trainer.train(constant_batches(5))
    assert sorted(path.name for path in (tmp_path / "points").iterdir()) == ["step_000001", "step_000002"]
    saved = load_file(tmp_path / "points" / "step_000002" / "weights.safetensors")
    assert all(torch.equal(saved[name], parameter) for name, parameter in tiny_llama.named_parameters())
    assert all(parameter.isfinite().all() for parameter in tiny_llama.parameters())
    assert len(read_log(tmp_path / "log.jsonl")) == 2


def test_float16_skips_a_step_that_overflows_and_goes_on(tiny_llama):
    """As the scaler does: the weights stay, the scale is halved, the record says so. Not for ever."""
    trainer = Trainer(tiny_llama, TrainingConfig(lr=1e-3, autocast="float16"), log_every=0)
    trainer.train(constant_batches(1))
    before, scale = copy.deepcopy(tiny_llama), trainer.scaler.get_scale()
    overflowing(tiny_llama, {0, 3})
    records = trainer.train(constant_batches(1))
    assert [record.skipped for record in records] == [True]
    assert "skipped" in records[0].line()
    assert trainer.scaler.get_scale() == scale / 2
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), tiny_llama.parameters(), strict=True))
    assert [record.skipped for record in trainer.train(constant_batches(4))] == [False, False, True, False]
    assert not torch.equal(before.lm_head.weight, tiny_llama.lm_head.weight)
    overflowing(tiny_llama, range(1000))
    with pytest.raises(CourseError, match="The gradient norm at step 1[0-9] is"):
        trainer.train(constant_batches(40))


def test_nothing_to_train_is_refused(tiny_llama):
    with pytest.raises(CourseError, match="Nothing to train"):
        Trainer(tiny_llama.requires_grad_(False), TrainingConfig(lr=1e-3))


def padded(lengths, seed=0):
    """A micro-batch of random examples of unequal lengths, the first token of each a prompt."""
    rng = np.random.default_rng(seed)
    examples = [rng.integers(3, 97, n).tolist() for n in lengths]
    return pad([{"input_ids": ids, "labels": [IGNORE, *ids[1:]]} for ids in examples], pad_token_id=2)


def losses(records):
    return [record.loss for record in records]


def test_accumulation_equals_the_large_batch(tiny_llama, parity):
    """Micro-batches of 2 short and 2 long examples: token-weighted they are the batch of four, step after step."""
    small = [padded([5, 6], 0), padded([30, 17], 1)] * 3
    width = small[1]["input_ids"].shape[1]

    def widened(batch):
        fill = {"input_ids": 2, "labels": IGNORE, "attention_mask": 0}
        missing = width - batch["input_ids"].shape[1]
        return {k: np.pad(v, ((0, 0), (0, missing)), constant_values=fill[k]) for k, v in batch.items()}

    large = [
        {key: np.concatenate([widened(a)[key], b[key]]) for key in a}
        for a, b in zip(small[::2], small[1::2], strict=True)
    ]
    model, twin = tiny_llama.double(), copy.deepcopy(tiny_llama.double())
    ours = losses(Trainer(model, TrainingConfig(lr=1e-2, grad_accum_steps=2), log_every=0).train(small))
    theirs = losses(Trainer(twin, TrainingConfig(lr=1e-2), log_every=0).train(large))
    assert len(ours) == len(theirs) == 3
    targets = [int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in small[:2]]
    assert targets == [9, 45]  # so unequal that a mean of means would be another loss
    why = "the loss is computed in float32; three steps carry its rounding on"
    parity.close("accumulated steps, unequal lengths", "one large batch", ours, theirs, 1e-6, why)


def test_the_last_step_takes_what_is_left(tiny_llama):
    assert (
        len(Trainer(tiny_llama, TrainingConfig(lr=1e-3, grad_accum_steps=3), log_every=0).train(constant_batches(7)))
        == 3
    )


def test_a_token_budget_decides_the_steps(tiny_llama):
    batches = [padded(lengths) for lengths in ([5, 5], [20, 20], [4, 4], [4, 4], [30, 9], [3, 3])]
    trainer = Trainer(tiny_llama, TrainingConfig(lr=1e-3, tokens_per_step=40), log_every=0)
    assert trainer.plan_steps(batches) == [[0, 1], [2, 3, 4], [5]]
    assert len(trainer.train(batches)) == 3


def test_packed_rows_train_as_their_examples_alone(tiny_llama, parity):
    examples = [
        {"input_ids": ids, "labels": [IGNORE, *ids[1:]]}
        for ids in (np.random.default_rng(n).integers(3, 97, n).tolist() for n in (9, 14, 5))
    ]
    twin = copy.deepcopy(tiny_llama)
    ours = losses(Trainer(tiny_llama, TrainingConfig(lr=1e-2), log_every=0).train([pack(examples, 32, 2)] * 3))
    theirs = losses(Trainer(twin, TrainingConfig(lr=1e-2), log_every=0).train([pad(examples, 2)] * 3))
    parity.close(
        "packed rows, 3 steps", "the same examples padded", ours, theirs, 1e-5, "float32: sums in another order"
    )


def test_recomputing_activations_changes_no_loss(tiny_llama):
    twin = copy.deepcopy(tiny_llama)
    with_, without = (
        losses(Trainer(m, TrainingConfig(lr=1e-2, gradient_checkpointing=c), log_every=0).train(constant_batches(4)))
        for m, c in ((tiny_llama, True), (twin, False))
    )
    assert with_ == without


def test_bfloat16_autocast_learns_the_same_roughly(tiny_llama):
    twin = copy.deepcopy(tiny_llama)
    half = losses(
        Trainer(tiny_llama, TrainingConfig(lr=1e-2, autocast="bfloat16"), log_every=0).train(constant_batches(10))
    )
    full = losses(Trainer(twin, TrainingConfig(lr=1e-2), log_every=0).train(constant_batches(10)))
    assert half != full
    np.testing.assert_allclose(half, full, rtol=0.05)  # bfloat16 keeps 8 bits


def test_evaluation_and_the_best_checkpoint(tiny_llama, tmp_path):
    results = iter([3.0, 1.0, 2.0])
    trainer = Trainer(
        tiny_llama,
        TrainingConfig(lr=1e-3),
        log_every=0,
        evaluate=lambda model: next(results),
        eval_every=2,
        log_path=tmp_path / "log.jsonl",
        checkpoints=CheckpointConfig(tmp_path, every=2),
    )
    records = trainer.train(constant_batches(6))
    assert [r.eval_loss for r in records] == [None, 3.0, None, 1.0, None, 2.0]
    assert json.loads((tmp_path / "best" / "state.json").read_text())["step"] == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "log.jsonl", "step_000004", "step_000006"]
    assert read_log(tmp_path / "log.jsonl") == records
    assert records[-1].peak_memory > 10_000_000


@pytest.mark.parametrize("stop", [1, 3])
def test_resuming_gives_bit_identical_losses(tiny_llama, tmp_path, stop):
    """LoRA with dropout, so that the random state matters too."""

    def run(folder, batches, resume=False):
        torch.manual_seed(3)
        model = copy.deepcopy(tiny_llama)
        inject_lora(model, ["q_proj", "v_proj"], rank=2, lora_dropout=0.3)
        trainer = Trainer(
            model,
            TrainingConfig(lr=1e-2, warmup_steps=2),
            checkpoints=CheckpointConfig(folder, every=1),
            log_every=0,
            log_path=folder / "log.jsonl",
        )
        return trainer.train(batches, resume=resume)

    class Stopped(Exception):
        pass

    class Breaking(list):
        """Batches whose `stop`-th cannot be had."""

        def __getitem__(self, index):
            if index == stop:
                raise Stopped
            return super().__getitem__(index)

    batches = constant_batches(6)
    whole = run(tmp_path / "whole", batches)
    with pytest.raises(Stopped):
        run(tmp_path / "cut", Breaking(batches))
    torch.rand(7)  # whatever happens in between
    resumed = run(tmp_path / "cut", batches, resume=True)
    assert losses(resumed) == losses(whole)
    assert losses(read_log(tmp_path / "cut" / "log.jsonl")) == losses(whole)


def test_another_models_checkpoint_is_refused(tiny_llama, tmp_path):
    base = copy.deepcopy(tiny_llama)
    inject_lora(tiny_llama, ["q_proj"], rank=2)
    options = {"checkpoints": CheckpointConfig(tmp_path, every=1), "log_every": 0}
    Trainer(tiny_llama, TrainingConfig(lr=1e-3), **options).train(constant_batches(1))

    other = copy.deepcopy(base)
    inject_lora(other, ["q_proj"], rank=4)
    before = [p.detach().clone() for p in other.parameters()]
    with pytest.raises(CourseError, match=r"of another model or adapter: .* is \(2, 32\) there and \(4, 32\) here"):
        Trainer(other, TrainingConfig(lr=1e-3), **options).train(constant_batches(2), resume=True)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))

    with torch.no_grad():
        base.lm_head.weight[0, 0] += 1
    inject_lora(base, ["q_proj"], rank=2)
    with pytest.raises(CourseError, match="another base model: the frozen weights' fingerprints differ"):
        Trainer(base, TrainingConfig(lr=1e-3), **options).train(constant_batches(2), resume=True)


def test_a_damaged_checkpoint_is_named(tiny_llama, tmp_path):
    options = {"checkpoints": CheckpointConfig(tmp_path, every=1), "log_every": 0}
    Trainer(tiny_llama, TrainingConfig(lr=1e-3), **options).train(constant_batches(1))
    path = tmp_path / "step_000001" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CourseError, match="step_000001 cannot be read as a checkpoint"):
        Trainer(tiny_llama, TrainingConfig(lr=1e-3), **options).train(constant_batches(2), resume=True)


def test_half_the_moments_missing_is_an_error(tiny_llama, tmp_path):
    """Without them the run would go on, with other losses and no word."""
    options = {"checkpoints": CheckpointConfig(tmp_path, every=1), "log_every": 0}
    Trainer(tiny_llama, TrainingConfig(lr=1e-3), **options).train(constant_batches(1))
    path = tmp_path / "step_000001" / "optimizer.safetensors"
    moments = load_file(path)
    save_file({name: tensor for name, tensor in moments.items() if "layers.1." not in name}, path)
    before = [p.detach().clone() for p in tiny_llama.parameters()]
    with pytest.raises(CourseError, match=r"is damaged: optimizer.safetensors has \d+ tensors, and \d+ were written"):
        Trainer(tiny_llama, TrainingConfig(lr=1e-3), **options).train(constant_batches(2), resume=True)
    assert all(torch.equal(a, b) for a, b in zip(before, tiny_llama.parameters(), strict=True))
    state = json.loads((path.parent / "state.json").read_text())
    del state["moments"]  # version 0.1 did not write their number
    (path.parent / "state.json").write_text(json.dumps(state))
    save_file(moments, path)
    Trainer(tiny_llama, TrainingConfig(lr=1e-3), **options).train(constant_batches(2), resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cosinus"}, "no schedule 'cosinus'. Choose one of cosine, linear, constant"),
        ({"grad_accum_steps": 0}, "grad_accum_steps=0"),
        ({"tokens_per_step": 0}, "tokens_per_step=0"),
        ({"autocast": "int8"}, "autocast='int8' is not possible. Choose bfloat16"),
    ],
)
def test_bad_options_are_named(tiny_llama, options, message):
    with pytest.raises(CourseError, match=message):
        Trainer(tiny_llama, TrainingConfig(lr=1e-3, **options))


def test_a_step_without_targets_is_refused(tiny_llama):
    batch = padded([4, 4])
    batch["labels"][:] = IGNORE
    with pytest.raises(CourseError, match="Every label of this step is -100"):
        Trainer(tiny_llama, TrainingConfig(lr=1e-3), log_every=0).train([batch])
    with pytest.raises(CourseError, match="resume=True needs the folder"):
        Trainer(tiny_llama, TrainingConfig(lr=1e-3)).train(constant_batches(1), resume=True)
