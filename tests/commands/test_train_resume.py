"""`course train --resume`, after an end, a kill, a move, and under torchrun."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from tiny_runs import TEXT, run, train

from course_lib.cli import main
from course_lib.finetuning.plan import make_plan
from course_lib.finetuning.settings import complete
from course_lib.models.pretrained import load_model
from course_lib.training import read_log


def test_resume_auto_alone_begins_in_a_new_folder(models, text, capsys):
    assert run(models, text, "--steps", 1, "--resume") == 2
    error = capsys.readouterr().err
    assert "run holds no run to resume. Leave --resume out to begin one there, or give --resume auto" in error
    assert error.count("\n") == 1
    assert not (models / "run").exists()
    assert run(models, text, "--steps", 1, "--resume", "auto") == 0
    assert "holds no run to resume: a new one begins" in capsys.readouterr().out
    assert run(models, text, "--steps", 1, "--resume", "auto") == 0  # the same command goes on
    assert "a new one begins" not in capsys.readouterr().out


def test_a_checkpoint_is_compared_like_an_adapter_and_the_run_may_have_moved(models, text, capsys, monkeypatch):
    """What the run wrote at its end is what its last checkpoint holds; a random base lies in the run's own folder."""
    options = ["--model", "tiny-gpt", "--tokenizer", models / "llama", "--dataset", text, "--lr", 1e-1]
    assert train(*options, "--output", models / "first", "--steps", 6, "--checkpoint-every", 2, "--eval-every", 4) == 0
    assert re.findall(r"^step (\d+) .* eval", capsys.readouterr().out, re.M) == ["3", "5"]
    (models / "first").rename(models / "moved")
    found = sorted((models / "moved" / "checkpoints").iterdir())
    assert [path.name for path in found] == ["best", "step_000002", "step_000004", "step_000006"]
    each = [argument for path in (models / "moved", *found[1:]) for argument in ("--adapter", path)]
    base = ["--base", models / "moved" / "base"]
    monkeypatch.setenv("COLUMNS", "10")  # too narrow for columns: one under another
    capsys.readouterr()
    assert main(["compare", *map(str, base + each), "--samples", "1", "--max-new-tokens", "12"]) == 0
    said = dict(re.findall(r"^(\w+):\n((?:  .*\n)+)", capsys.readouterr().out, re.M))
    assert said["moved"] == said["step_000006"] != said["step_000002"]
    assert main(["compare", "--adapter", str(models / "moved"), "--samples", "1", "--max-new-tokens", "2"]) == 0
    assert main(["adapters", "info", str(found[0])]) == 2
    assert "course adapters export makes an adapter of it" in capsys.readouterr().err


def test_resume_after_the_end_keeps_the_log_and_the_result(models, text, capsys):
    run(models, text, "--steps", 4)
    before = {name: (models / "run" / name).read_bytes() for name in ("log.jsonl", "adapter_model.safetensors")}
    assert train("--output", models / "run", "--resume") == 0
    assert {name: (models / "run" / name).read_bytes() for name in before} == before


def test_resume_before_the_first_checkpoint_begins_again(models, text, capsys):
    run(models, text, "--steps", 2, "--checkpoint-every", 0)
    log = [record.loss for record in read_log(models / "run" / "log.jsonl")]
    capsys.readouterr()
    assert train("--output", models / "run", "--resume") == 0
    assert "run has no checkpoint yet: the run begins again at step 0" in capsys.readouterr().out
    assert [record.loss for record in read_log(models / "run" / "log.jsonl")] == log


@pytest.mark.parametrize("sharded", [True, False])
def test_a_model_saved_into_the_run_since_does_not_hide_the_result(models, text, sharded):
    """Another model in the folder, in shards or in one file: what the run saves is what both loaders find there."""
    from transformers import AutoModelForCausalLM

    options = ["--mode", "full", "--steps", 2, "--lr", 1e-2]
    assert run(models, text, *options) == 0
    folder = models / "run"
    result = (folder / "model.safetensors").read_bytes()
    if sharded:
        (folder / "model.safetensors").unlink()
    other = AutoModelForCausalLM.from_pretrained(models / "llama")
    other.generation_config.max_new_tokens = 3
    other.save_pretrained(folder, max_shard_size="20KB" if sharded else "1GB")
    assert (folder / "model.safetensors.index.json").exists() == sharded
    assert train("--output", folder, "--resume") == 0
    assert (folder / "model.safetensors").read_bytes() == result
    assert [path.name for path in folder.glob("model*")] == ["model.safetensors"]
    ours, theirs = load_model(folder), AutoModelForCausalLM.from_pretrained(folder)
    for each, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(each, reference)


def test_resume_refuses_other_data(models, text, capsys):
    run(models, text, "--steps", 2)
    text.write_text(TEXT.replace("keeper", "captain"))
    assert train("--output", models / "run", "--resume") == 2
    assert "is not what it was" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_and_resumed_the_log_is_bit_identical(models, text):
    """kill -9 after a few steps, then the same command with --resume: losses, norms and weights are those of a run
    that was left alone."""
    command = [sys.executable, "-m", "course_lib.cli", "train", "--model", models / "llama", "--dataset", text]
    command += ["--seq-len", 32, "--lora-dropout", 0.1, "--tokens-per-step", 90, "--epochs", 3, "--eval-every", 7]
    command += ["--batch-size", 2, "--threads", 1, "--resume", "auto", "--output"]
    command = list(map(str, command))
    subprocess.run([*command, models / "whole"], check=True, capture_output=True, timeout=120)
    process = subprocess.Popen([*command, models / "cut"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log, deadline = models / "cut" / "log.jsonl", time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if log.is_file() and len(log.read_text().splitlines()) >= 5:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (models / "cut" / "summary.json").exists(), "the run ended before it was killed"
    subprocess.run([*command, models / "cut"], check=True, capture_output=True, timeout=120)
    whole, cut = (read_log(models / name / "log.jsonl") for name in ("whole", "cut"))
    assert [(r.step, r.loss, r.lr, r.norm, r.eval_loss) for r in cut] == [
        (r.step, r.loss, r.lr, r.norm, r.eval_loss) for r in whole
    ]
    weights = [(models / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_under_torchrun_two_processes_give_the_losses_of_one(models, text, parity):
    """The same global batch: rows shared out, the last batch of a pass too small for both; the first process alone
    prints and writes, and a second run in the folder is refused; --resume goes on."""
    command = ["train", "--model", models / "llama", "--dataset", text, "--seq-len", 32, "--lr", 1e-2, "--steps", 12]
    command += [
        "--eval-every",
        5,
        "--batch-size",
        3,
        "--grad-accum-steps",
        2,
        "--checkpoint-every",
        6,
        "--log-every",
        6,
    ]
    assert main(list(map(str, [*command, "--threads", 1, "--output", models / "alone"]))) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launcher += ["-m", "course_lib.cli", *map(str, command), "--output", str(models / "together")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(launcher, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("trainable: ") == done.stdout.count("held-out loss before") == 1
    assert [line.split(" | ")[0] for line in done.stdout.splitlines() if line.startswith("step ")] == [
        "step 0",
        "step 4",  # evaluated
        "step 6",
        "step 9",
        "step 11",
    ]
    assert "shared out to 2 processes" in done.stdout
    alone, together = (read_log(models / name / "log.jsonl") for name in ("alone", "together"))
    rows = [len(batch) for batch in _batches(models / "llama", text)]
    assert 1 in rows, "the last batch of a pass is to have one row: none for the second process"
    why = "float32: gradients and losses are added in another order; 1e-5 is far below what changes a run"
    for what in ("loss", "norm", "eval_loss"):
        ours, theirs = ([getattr(r, what) for r in records if getattr(r, what)] for records in (together, alone))
        parity.close(f"course train under torchrun, {what}", "one process, same global batch", ours, theirs, 1e-5, why)
    assert [r.tokens for r in together] == [r.tokens for r in alone]
    names = [sorted(path.name for path in (models / name).rglob("*")) for name in ("alone", "together")]
    assert names[0] == names[1]
    before = (models / "together" / "adapter_model.safetensors").read_bytes()
    again = subprocess.run([*launcher, "--resume"], capture_output=True, text=True, timeout=200, env=environment)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (models / "together" / "adapter_model.safetensors").read_bytes() == before


def _batches(model, text):
    plan = make_plan(replace(complete({"model": str(model), "dataset": str(text)}), seq_len=32, batch_size=3))
    return (plan.batches[number] for number in range(plan.batches.per_pass))
