"""The commands of the pipeline, and its stages as commands of their own."""

import json

import pytest
import torch
from tiny_pipeline import profile
from tiny_runs import course

from course_lib.adapters.layers import adapted_layers
from course_lib.finetuning.model import is_own_decoder
from course_lib.finetuning.settings import Settings
from course_lib.models.decoder import Decoder
from course_lib.models.folder import stage_of
from course_lib.models.huggingface import load_decoder
from course_lib.models.pretrained import load_model, load_tokenizer

PRETRAIN = (
    "--model",
    "tiny-llama",
    "--dataset-mix",
    "worked=0.6",
    "sums=0.4",
    "--tokens-target",
    1024,
    "--seq-len",
    64,
)
PRETRAIN += ("--seq-len", 64, "--vocab-size", 320, "--lr", "3e-3", "--threads", 1, "--log-every", 0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """What `course pretrain` makes. Not to be changed."""
    folder = tmp_path_factory.mktemp("stages") / "base"
    assert course("pretrain", *PRETRAIN, "--output", folder) == 0
    return folder


@pytest.fixture
def records(tmp_path):
    rows = [{"instruction": f"What is {n} + 1?", "input": "", "output": f"#### {n + 1}"} for n in range(1, 13)]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def pairs(tmp_path):
    rows = [{"prompt": f"What is {n} + 1?", "chosen": f"#### {n + 1}", "rejected": f"#### {n}"} for n in range(1, 13)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tune(verb, base, dataset, output, *options):
    return course(
        verb, "--model", base, "--mode", "full", "--dataset", dataset, "--output", output, "--lr", "1e-3",
        "--threads", 1, "--log-every", 0, *options,
    )  # fmt: skip


class TestPretrain:
    def test_it_leaves_a_decoder_that_everything_loads(self, base, capsys):
        model, tokenizer = load_decoder(base), load_tokenizer(base)
        assert stage_of(base) == "pretrain"
        assert model.config.vocab_size == len(tokenizer) == 320
        ids = torch.tensor([tokenizer("First 3 + 4 = 7.")["input_ids"]])
        theirs = load_model(base)
        with torch.no_grad():
            assert torch.allclose(model(ids).logits, theirs(ids).logits, atol=1e-4)
        summary = json.loads((base / "summary.json").read_text())
        assert summary["held_out_loss_after"] < summary["held_out_loss_before"]

    def test_a_run_that_is_resumed_is_the_same(self, base, tmp_path):
        from shutil import copytree

        copytree(base, tmp_path / "again")
        (tmp_path / "again" / "model.safetensors").unlink()
        assert course("pretrain", "--output", tmp_path / "again", "--resume", "--log-every", 0) == 0
        assert (tmp_path / "again" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()

    def test_a_gpt2_of_the_same_size(self, base, tmp_path):
        assert course("pretrain", *PRETRAIN, "--family", "gpt2", "--output", tmp_path / "gpt2") == 0
        ours, gpt2 = load_decoder(base), load_decoder(tmp_path / "gpt2")
        assert gpt2.config.model_type == "gpt2"
        sizes = [sum(p.numel() for p in model.parameters()) for model in (ours, gpt2)]
        assert abs(sizes[1] / sizes[0] - 1) < 0.01

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--dataset-mix", "worked"), "--dataset-mix 'worked' is not CORPUS=SHARE"),
            (("--dataset-mix", "workedd=1"), "no corpus 'workedd'"),
            (("--dataset-mix", "keepers_log=1", "--tokens-target", 500_000), "keepers_log has .* passes"),
            (("--model", "tiny-gpt", "--family", "gpt2"), "tiny-gpt is a GPT-2 already"),
            (("--model", "tinyllama"), "--model tinyllama: there is no such shape"),
            (("--tokens-target", 10), "do not fill a row of 64"),
            (("--steps", 10), "no option --steps"),
        ],
    )
    def test_what_cannot_be_trained(self, tmp_path, capsys, options, message):
        with pytest.raises(SystemExit) if "--steps" in options else _nothing():
            assert course("pretrain", *PRETRAIN, *options, "--output", tmp_path / "x") == 2
        import re

        assert re.search(message, capsys.readouterr().err.replace("\n", " "))
        assert not (tmp_path / "x").exists()


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


class TestStages:
    def test_sft_trains_our_own_decoder(self, base, records, tmp_path, monkeypatch):
        seen = watch(monkeypatch)
        assert tune("sft", base, records, tmp_path / "sft") == 0
        assert seen == ["Decoder"]
        assert stage_of(tmp_path / "sft") == "sft"
        before, after = load_decoder(base), load_decoder(tmp_path / "sft")
        assert not torch.equal(before.output_weight, after.output_weight)
        assert load_tokenizer(tmp_path / "sft").chat_template == load_tokenizer(base).chat_template

    def test_dpo_goes_on_from_sft(self, base, records, pairs, tmp_path, monkeypatch):
        assert tune("sft", base, records, tmp_path / "sft") == 0
        seen = watch(monkeypatch)
        assert tune("dpo", tmp_path / "sft", pairs, tmp_path / "dpo", "--reference", "cached", "--epochs", 3) == 0
        assert seen == ["Decoder"]
        assert stage_of(tmp_path / "dpo") == "dpo"
        losses = [json.loads(line)["loss"] for line in (tmp_path / "dpo" / "log.jsonl").open()]
        assert losses[0] == pytest.approx(0.693147, abs=1e-5)
        sft, dpo = (load_decoder(tmp_path / name).output_weight for name in ("sft", "dpo"))
        assert not torch.equal(sft, dpo)

    def test_both_give_what_transformers_class_gives(self, base, records, tmp_path):
        """Without its mark, the same folder is loaded as a model of transformers: the losses are the same."""
        from shutil import copytree

        copytree(base, tmp_path / "plain")
        config = json.loads((tmp_path / "plain" / "config.json").read_text())
        config.pop("course_stage")
        (tmp_path / "plain" / "config.json").write_text(json.dumps(config))
        assert stage_of(tmp_path / "plain") is None
        for name, model in (("ours", base), ("theirs", tmp_path / "plain")):
            # AdamW's first steps divide a gradient by its own size, so rounding is multiplied by the learning rate.
            assert tune("sft", model, records, tmp_path / name, "--epochs", 2, "--lr", "1e-5") == 0
        ours, theirs = (
            [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").open()] for name in ("ours", "theirs")
        )
        assert ours == pytest.approx(theirs, rel=1e-4)

    def test_an_adapter_goes_on_it_too(self, base, records, tmp_path, capsys):
        assert tune("sft", base, records, tmp_path / "lora", "--mode", "lora", "--epochs", 1) == 0
        assert (tmp_path / "lora" / "adapter_model.safetensors").is_file()
        assert course("adapters", "list", tmp_path) == 0
        assert not list(adapted_layers(load_decoder(base)))

    def test_four_bits_and_other_folders_stay_with_transformers(self, base, tmp_path):
        assert is_own_decoder(Settings(), str(base))
        assert not is_own_decoder(Settings(mode="qlora"), str(base))
        assert not is_own_decoder(Settings(), str(tmp_path))


def watch(monkeypatch):
    """The class of every model that the Trainer is given."""
    import course_lib.finetuning.run as module

    seen, original = [], module.Trainer

    def trainer(model, *arguments, **options):
        seen.append(type(model).__name__)
        assert isinstance(model, Decoder)
        return original(model, *arguments, **options)

    monkeypatch.setattr(module, "Trainer", trainer)
    return seen


class TestEvaluate:
    OPTIONS = ("--problems", 6, "--samples", 2, "--max-new-tokens", 8, "--perplexity-on", "stories", "--window", 28)
    OPTIONS += ("--long-tokens", 96, "--threads", 1)

    def test_numbers_are_printed_and_written(self, base, tmp_path, capsys):
        assert course("evaluate", "--model", base, *self.OPTIONS, "--output", tmp_path / "eval.json") == 0
        said = capsys.readouterr().out
        assert "exact match on 6 held-out problems" in said
        assert "pass@1" in said
        assert "perplexity on stories" in said
        about = json.loads((tmp_path / "eval.json").read_text())
        assert about["samples"]["verifier"] is None
        assert about["exact_match"]["problems"] == 6

    def test_the_check_of_a_checkpoint(self, base, tmp_path, capsys):
        path = tmp_path / "inference_ok.json"
        assert course("evaluate", "--model", base, "--inference-ok", path, "--threads", 1) == 0
        about = json.loads(path.read_text())
        assert about["ok"] is True
        assert about["stage"] == "pretrain"
        assert len(about["problems"]) == 8

    def test_a_damaged_checkpoint_is_not_ok(self, base, tmp_path, capsys):
        from shutil import copytree

        from safetensors.torch import load_file, save_file

        copytree(base, tmp_path / "damaged")
        weights = load_file(base / "model.safetensors")
        weights["model.norm.weight"][:] = float("nan")
        save_file(weights, tmp_path / "damaged" / "model.safetensors", metadata={"format": "pt"})
        path = tmp_path / "inference_ok.json"
        path.write_text("{}")  # of an earlier check
        assert course("evaluate", "--model", tmp_path / "damaged", "--inference-ok", path) == 2
        assert "not finite" in capsys.readouterr().err
        assert not path.exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--problems", 0), "--problems 0"),
            (("--temperature", 0), "--temperature 0"),
            (("--temperature", "inf"), "--temperature inf"),
            (("--threads", -1), "--threads -1 is not possible. Give at least 0"),
            (("--sinks", -1), "--sinks -1 is not possible. Give at least 0"),
            (("--long-tokens", 3), "--long-tokens 3 is not possible. Give at least 64"),
            (("--perplexity-on", "storiess"), "no corpus 'storiess'"),
            (("--verifier", "./none"), "--verifier ./none"),
        ],
    )
    def test_what_cannot_be_measured(self, base, capsys, options, message):
        assert course("evaluate", "--model", base, *self.OPTIONS, *options) == 2
        assert message in capsys.readouterr().err

    def test_a_model_is_no_verifier(self, base, capsys):
        assert course("evaluate", "--model", base, *self.OPTIONS, "--verifier", base) == 2
        assert "verifier" in capsys.readouterr().err


class TestPipelineCommand:
    def test_run_status_and_report(self, tmp_path, capsys):
        own = profile(tmp_path)
        folder = tmp_path / "run"
        assert course("pipeline", "status", "--output", folder) == 2
        assert "holds no pipeline" in capsys.readouterr().err
        assert course("pipeline", "run", "--profile", own, "--output", folder) == 0
        said = capsys.readouterr().out
        assert "[1/10] tokenizer: begins" in said
        assert "GPT-2 (same size)" in said
        assert "DPO to +Verifier" in said
        assert course("pipeline", "status", "--output", folder) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"{folder}: profile tiny, seed 0"
        assert all(line.split()[1] == "done" for line in lines[1:])
        assert course("pipeline", "status", "--output", folder, "--seed", 1) == 0
        assert "seed is 1, and was 0" in capsys.readouterr().out
        (folder / "results" / "report.html").unlink()
        assert course("pipeline", "report", "--output", folder) == 0
        assert "exact match" in capsys.readouterr().out
        assert (folder / "results" / "report.html").is_file()
        (folder / "dpo" / "stage.json").unlink()
        assert course("pipeline", "report", "--output", folder) == 2
        assert "dpo is missing" in capsys.readouterr().err


@pytest.mark.slow
def test_the_smoke_profile_runs_in_less_than_a_minute_of_processor_time(tmp_path, capsys):
    import time

    started = time.process_time()
    assert course("pipeline", "run", "--profile", "smoke", "--output", tmp_path / "run") == 0
    assert time.process_time() - started < 60
    assert (tmp_path / "run" / "results" / "report.html").stat().st_size > 10_000
