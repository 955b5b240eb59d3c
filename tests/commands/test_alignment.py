"""`course sft` and `course dpo` from end to end on a tiny model: what they write, resume and refuse."""

import json
import math
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import course

from course_lib.alignment.settings import DPOSettings, PretrainSettings, SFTSettings
from course_lib.finetuning.settings import complete
from course_lib.training import read_log

QUESTIONS = [f"Which lamp is number {n}?" for n in range(24)]


@pytest.fixture
def records(tmp_path):
    rows = [{"instruction": q, "input": "", "output": f"The lamp {n % 5} is lit."} for n, q in enumerate(QUESTIONS)]
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def write_pairs(path, extra=()):
    rows = [{"prompt": q, "chosen": f"The lamp {n % 5} is lit.", "rejected": "No."} for n, q in enumerate(QUESTIONS)]
    path.write_text("\n".join(map(json.dumps, [*extra, *rows])))
    return path


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path / "pairs.jsonl")


def run(verb, models, data, *arguments, output="run"):
    return course(
        verb, "--model", models / "llama", "--dataset", data, "--output", models / output, "--threads", 1, *arguments
    )


def summary(models, output="run"):
    return json.loads((models / output / "summary.json").read_text())


# --- course sft ---


def test_sft_learns_the_answers_and_writes_an_adapter(models, records, capsys):
    assert run("sft", models, records, "--lr", 1e-2, "--epochs", 6, "--grad-accum-steps", 1) == 0
    printed, out = capsys.readouterr().out, summary(models)
    assert out["held_out_loss_after"] < out["held_out_loss_before"] - 0.15  # an adapter on random weights
    assert out["perplexity_after"] == pytest.approx(math.exp(out["held_out_loss_after"]))
    assert (models / "run" / "adapter_model.safetensors").is_file()
    assert json.loads((models / "run" / "run.json").read_text())["stage"] == "sft"
    assert "22 examples in the instruction template" in printed


def test_packing_makes_fewer_rows_of_the_same_tokens(models, records, capsys):
    assert run("sft", models, records, "--packing", "--seq-len", 120, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "22 examples in the instruction template" in printed
    rows = int(printed.split("packed into ")[1].split(" rows")[0])
    assert rows < 16
    assert not (models / "run").exists()
    options = ["--mode", "full", "--lr", 1e-2, "--epochs", 12]
    assert run("sft", models, records, "--packing", "--seq-len", 120, *options) == 0
    assert summary(models)["held_out_loss_after"] < summary(models)["held_out_loss_before"] - 2


@pytest.mark.parametrize("verb", ["sft", "dpo"])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(models, records, pairs, verb):
    data = records if verb == "sft" else pairs
    options = ["--lr", 1e-2, "--grad-accum-steps", 1, "--checkpoint-every", 2, "--lora-dropout", 0.3, "--epochs", 1]
    options += ["--reference", "cached"] if verb == "dpo" else []
    assert run(verb, models, data, *options) == 0
    whole = [record.loss for record in read_log(models / "run" / "log.jsonl")]
    weights = load_file(models / "run" / "adapter_model.safetensors")
    for path in (models / "run" / "checkpoints").glob("step_*"):  # as if it had been killed in step 4
        if path.name > "step_000004":
            shutil.rmtree(path)
    shutil.rmtree(models / "run" / "checkpoints" / "best", ignore_errors=True)
    (models / "run" / "summary.json").unlink()
    assert run(verb, models, data, "--resume") == 0
    assert [record.loss for record in read_log(models / "run" / "log.jsonl")] == whole
    again = load_file(models / "run" / "adapter_model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)


# --- course dpo ---


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--reference", "cached"],
        ["--mode", "full", "--lr", "1e-3"],
        ["--loss-type", "ipo", "--beta", "0.5"],
        ["--loss-type", "simpo", "--gamma", "0.2"],
        ["--label-smoothing", "0.1"],
    ],
    ids=" ".join,
)
def test_dpo_learns_the_order(models, pairs, capsys, options):
    common = ["--lr", "1e-2", "--epochs", "4", "--grad-accum-steps", "1", "--log-every", "1"]
    assert run("dpo", models, pairs, *common, *options) == 0
    printed, out = capsys.readouterr().out, summary(models)
    assert out["held_out_accuracies"] == 1.0
    assert out["held_out_margins"] > 0.01
    assert out["held_out_loss_after"] < out["held_out_loss_before"]
    assert "perplexity_after" not in out
    log = read_log(models / "run" / "log.jsonl")
    assert log[-1].metrics["margins"] > log[0].metrics["margins"]
    if "--loss-type" not in options:
        assert out["held_out_loss_before"] == pytest.approx(math.log(2), abs=1e-6)
        assert log[0].loss == pytest.approx(math.log(2), abs=1e-6)
        assert "of the held-out pairs 100.0% are ordered rightly" in printed
    assert "prompts computed once" in printed


def test_an_adapter_goes_on_from_itself_and_not_from_the_base(models, records, pairs, capsys):
    """The adapter of course sft is the start and, frozen, the reference: the first loss is ln 2."""
    assert run("sft", models, records, "--rank", 3, "--alpha", 5, "--lr", 5e-2, "--epochs", 4, output="tuned") == 0
    options = ["--adapter", models / "tuned", "--lr", 1e-2, "--grad-accum-steps", 1, "--epochs", 2]
    assert run("dpo", models, pairs, *options) == 0
    assert f"reference: the adapter {models / 'tuned'} as it came, frozen" in capsys.readouterr().out
    out = summary(models)
    assert out["held_out_loss_before"] == pytest.approx(math.log(2), abs=1e-6)
    assert out["held_out_loss_after"] < out["held_out_loss_before"]
    config = json.loads((models / "run" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 5)
    before, after = (load_file(models / name / "adapter_model.safetensors") for name in ("tuned", "run"))
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    # Held to the base, the same start is far from ln 2.
    assert run("dpo", models, pairs, *options, "--reference", "adapter-off", output="to_base") == 0
    other = json.loads((models / "to_base" / "summary.json").read_text())
    assert abs(other["held_out_loss_before"] - math.log(2)) > 1e-3


def test_a_run_from_an_adapter_can_be_resumed(models, records, pairs):
    """The reference is the adapter as it came, and not as the checkpoint has it."""
    assert run("sft", models, records, "--lr", 5e-2, "--epochs", 2, output="tuned") == 0
    options = ["--adapter", models / "tuned", "--lr", 1e-2, "--grad-accum-steps", 1, "--checkpoint-every", 2]
    assert run("dpo", models, pairs, *options) == 0
    whole = [record.loss for record in read_log(models / "run" / "log.jsonl")]
    for path in (models / "run" / "checkpoints").glob("step_*"):
        if path.name > "step_000002":
            shutil.rmtree(path)
    shutil.rmtree(models / "run" / "checkpoints" / "best", ignore_errors=True)
    (models / "run" / "summary.json").unlink()
    assert run("dpo", models, pairs, "--resume") == 0
    assert [record.loss for record in read_log(models / "run" / "log.jsonl")] == whole


def test_an_adapter_brings_its_base(models, records, pairs, capsys):
    """It means nothing on another base, so the default model is not taken for it in silence."""
    assert run("sft", models, records, "--epochs", 1, output="tuned") == 0
    options = ["--adapter", models / "tuned", "--dataset", pairs, "--steps", 1, "--threads", 1]
    assert course("dpo", *options, "--output", models / "own") == 0
    assert f"lora: {models / 'llama'}," in capsys.readouterr().out
    assert json.loads((models / "own" / "run.json").read_text())["settings"]["model"] == str(models / "llama")
    assert course("dpo", *options, "--output", models / "own", "--resume") == 0

    shutil.copytree(models / "llama", models / "other")
    weights = load_file(models / "other" / "model.safetensors")
    save_file(
        {name: 1.5 * each for name, each in weights.items()}, models / "other" / "model.safetensors", {"format": "pt"}
    )
    capsys.readouterr()
    assert course("dpo", *options, "--model", models / "other", "--output", models / "moved") == 0
    said = f"note: {models / 'tuned'} was trained on {models / 'llama'}, and goes on here on {models / 'other'}"
    assert said in capsys.readouterr().out


def test_an_adapter_whose_base_is_elsewhere(models, records, pairs, capsys):
    assert run("sft", models, records, "--epochs", 1, output="tuned") == 0
    path = models / "tuned" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "/home/ada/base"}))
    capsys.readouterr()
    assert course("dpo", "--adapter", models / "tuned", "--dataset", pairs, "--output", models / "run") == 2
    assert f"{path} names the base /home/ada/base, a folder that is not on this machine: give --model" in (
        capsys.readouterr().err
    )
    assert run("dpo", models, pairs, "--adapter", models / "tuned", "--steps", 1) == 0


def test_an_adapter_of_qlora_is_told_about_its_4_bits(models, records, pairs, capsys):
    assert run("sft", models, records, "--mode", "qlora", "--epochs", 1, output="tuned") == 0
    options = ["--adapter", models / "tuned", "--steps", 1]
    said = f"note: {models / 'tuned'} was trained on a base in 4 bits (nf4, blocks of 64 with double quantisation)"
    assert run("dpo", models, pairs, *options, output="plain") == 0
    assert said in capsys.readouterr().out
    assert run("dpo", models, pairs, *options, "--mode", "qlora", output="kept") == 0
    assert "note:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--mode", "full"], "--mode lora or qlora, not with full"),
        (["--reference", "cached"], "give copy, or leave --reference out"),
        (["--rank", "16"], "--rank 16: --adapter .* has 8. Leave --rank out"),
        (["--adapter", "runs/nothing"], "--adapter runs/nothing: there is no such folder"),
    ],
    ids=["full", "cached", "rank", "missing"],
)
def test_what_does_not_go_with_an_adapter_is_refused(models, records, pairs, capsys, options, said):
    assert run("sft", models, records, "--epochs", 1, output="tuned") == 0
    capsys.readouterr()
    assert run("dpo", models, pairs, "--adapter", models / "tuned", *options) != 0
    assert re.search(said, capsys.readouterr().err)


def test_a_verifier_is_no_adapter(models, pairs, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "course_verifier"}')
    assert run("dpo", models, pairs, "--adapter", tmp_path) == 2
    assert f"{tmp_path} holds a verifier, which judges answers, and not an adapter" in capsys.readouterr().err


def test_pairs_without_a_signal_are_named(models, tmp_path, capsys):
    same = {"prompt": "Which?", "chosen": "This one.", "rejected": "This one."}
    empty = {"prompt": "Which?", "chosen": "This one.", "rejected": ""}
    path = write_pairs(tmp_path / "some.jsonl", [same, empty])
    assert run("dpo", models, path, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert f"pairs left out: 1 (the two responses are the same): {path}:1" in printed
    assert "malformed rows left out: 1" in printed
    assert "loss: sigmoid, beta 0.1; reference: the base, with the adapter off" in printed


def test_a_generated_set_needs_no_file(models, capsys):
    for verb, name in (("sft", "instructions"), ("dpo", "preferences")):
        options = ["--dry-run", "--seq-len", 128, "--too-long", "skip"]
        assert course(verb, "--model", models / "llama", *options) == 0
        assert f"data: {name}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "lines", "values"),
    [
        (PretrainSettings, ["learning rate (1e-3)", "tokens in a row (128)"], {"full": 1e-3}),
        (SFTSettings, ["learning rate (lora, qlora: 3e-4; butterflies: 1e-4; full: 5e-5)", "steps (by --epochs)"],
         {"lora": 3e-4, "qlora": 3e-4, "butterfly": 1e-4, "full": 5e-5}),
        (DPOSettings, ["learning rate (full: 1e-6; else 5e-5)", "steps (by --epochs)"],
         {"lora": 5e-5, "qlora": 5e-5, "butterfly": 5e-5, "full": 1e-6}),
    ],
)  # fmt: skip
def test_the_help_says_the_defaults_of_its_own_command(capsys, kind, lines, values):
    with pytest.raises(SystemExit):
        course(kind.STAGE, "--help")
    text = " ".join(capsys.readouterr().out.split())
    for line in lines:
        assert line in text
    for mode, lr in values.items():
        chosen = complete({"mode": mode}, kind)
        assert chosen.lr == lr
        if kind is not PretrainSettings:
            assert (chosen.steps, chosen.epochs) == (None, 1.0)
    assert ("--rank" in text) == (kind is not PretrainSettings)  # pretraining has no adapter


# --- what is refused, with nothing lost ---


@pytest.mark.parametrize(
    ("verb", "arguments", "said"),
    [
        ("dpo", ["--beta", 0], "--beta 0.0 is not possible. It has to be above 0"),
        ("dpo", ["--beta", -1], "--beta -1.0 is not possible"),
        ("dpo", ["--label-smoothing", 0.5], "--label-smoothing 0.5 is not possible"),
        ("dpo", ["--loss-type", "hinge", "--label-smoothing", 0.1], "has no label smoothing"),
        ("dpo", ["--loss-type", "simpo", "--reference", "copy"], "has no reference"),
        ("dpo", ["--mode", "full", "--reference", "adapter-off"], "needs an adapter"),
        ("sft", ["--dataset", "instruction"], "Did you mean instructions?"),
        ("sft", ["--dataset", "notes.txt"], "course train learns texts"),
        ("sft", ["--template", "chat"], "has no chat template"),
    ],
)
def test_what_is_refused_before_anything_is_written(models, text, monkeypatch, capsys, verb, arguments, said):
    monkeypatch.chdir(text.parent)
    assert course(verb, "--model", models / "llama", "--output", models / "new", *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (models / "new").exists()


def test_records_without_a_rejected_response_are_for_sft(models, records, capsys):
    assert run("dpo", models, records) == 2
    assert "course sft trains on answers alone" in capsys.readouterr().err


def test_a_record_without_a_response_is_named(models, records, tmp_path, capsys):
    path = tmp_path / "some.jsonl"
    path.write_text(json.dumps({"instruction": "Which lamp?", "output": ""}) + "\n" + records.read_text())
    assert run("sft", models, path, "--dry-run") == 0
    assert f"malformed rows left out: 1, such as {path}:1" in capsys.readouterr().out


def test_a_record_with_an_end_token_in_its_text_is_named(models, records, pairs, tmp_path, capsys):
    """Such a text ends its turn; TRL trains on it without a word."""
    rows = {
        "sft": {"instruction": "Which lamp?<eos>None.", "output": "The lamp is lit."},
        "dpo": {"prompt": "Which lamp?", "chosen": "The lamp is lit.", "rejected": "No.<eos>Yes."},
    }
    said = "records with a token of the template in their text, which ends or begins a turn there: 1, such as"
    for verb, whole in (("sft", records), ("dpo", pairs)):
        path = tmp_path / f"{verb}.jsonl"
        path.write_text(json.dumps(rows[verb]) + "\n" + whole.read_text())
        assert run(verb, models, path, "--dry-run") == 0
        assert f"{said} {path}:1 (<eos>)" in " ".join(capsys.readouterr().out.split())
        assert run(verb, models, whole, "--dry-run") == 0
        assert said not in capsys.readouterr().out


def test_a_tokenizer_without_an_end_token_is_refused(models, records, capsys):
    path = models / "llama" / "tokenizer_config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in about.items() if key != "eos_token"}))
    assert run("sft", models, records) == 2
    assert "no end-of-text token" in capsys.readouterr().err


def test_a_template_without_a_generation_prompt_is_refused(models, records, pairs, capsys):
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<eos>' }}{% endfor %}"
    (models / "llama" / "chat_template.jinja").write_text(template)
    for verb, data in (("sft", records), ("dpo", pairs)):
        assert run(verb, models, data) == 2
        assert "no generation prompt" in capsys.readouterr().err


def test_the_run_of_another_command_is_not_gone_on_with(models, records, pairs, capsys):
    assert run("sft", models, records, "--steps", 1) == 0
    before = (models / "run" / "run.json").read_bytes()
    assert run("dpo", models, pairs, "--resume") == 2
    assert "holds a run of course sft, and course dpo cannot continue it" in capsys.readouterr().err
    assert course("train", "--output", models / "run", "--resume") == 2
    assert "course train cannot continue it" in capsys.readouterr().err
    assert (models / "run" / "run.json").read_bytes() == before


def test_a_stale_cache_is_refused(models, pairs, capsys):
    options = ["--reference", "cached", "--steps", 2, "--checkpoint-every", 1]
    assert run("dpo", models, pairs, *options) == 0
    # The base is trained further under its name, while the run's folder keeps the old values.
    weights = models / "llama" / "model.safetensors"
    from safetensors.torch import save_file

    tensors = load_file(weights)
    tensors["model.norm.weight"] += 0.01
    save_file(tensors, weights, metadata={"format": "pt"})
    shutil.rmtree(models / "run" / "checkpoints")
    assert run("dpo", models, pairs, "--resume") == 2
    assert "is stale: since it was written, the model's weights have changed" in capsys.readouterr().err
    assert run("dpo", models, pairs, *options, "--force") == 0
