"""The pipeline: its stages, what is skipped, and what a killed run goes on to."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_pipeline import profile, run, settings

from course_lib.alignment.pipeline.running import NAMES, STAGES, pipeline_status, read_pipeline
from course_lib.alignment.pipeline.settings import load_pipeline
from course_lib.alignment.pipeline.table import COLUMNS, TITLES, gains
from course_lib.errors import CourseError

RESULTS = ("baseline_eval.json", "base_eval.json", "sft_eval.json", "dpo_eval.json", "verifier_eval.json")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished pipeline: (its settings, its folder, its table, what it said). Not to be changed."""
    folder = tmp_path_factory.mktemp("pipeline")
    chosen = settings(folder)
    rows, said = run(chosen, folder / "run")
    return chosen, folder / "run", rows, said


def copy_of(done, tmp_path):
    import shutil

    shutil.copytree(done[1], tmp_path / "run")
    return tmp_path / "run"


def states(chosen, folder):
    return {row["stage"]: row["state"] for row in pipeline_status(chosen, folder)}


class TestResults:
    def test_every_file_is_there(self, done):
        results = done[1] / "results"
        wanted = {*RESULTS, "comparison_table.csv", "inference_ok.json", "report.md", "report.html", "pictures"}
        assert {path.name for path in results.iterdir()} == wanted

    @pytest.mark.parametrize("name", RESULTS)
    def test_an_evaluation_has_every_metric(self, done, name):
        about = json.loads((done[1] / "results" / name).read_text())
        share = about["exact_match"]
        assert 0 <= share["low"] <= share["value"] <= share["high"] <= 1
        assert share["problems"] == 12
        text = about["perplexity"]["stories"]
        assert text["word_perplexity"] > text["perplexity"] > 1
        assert "judgements" not in about
        if name == "baseline_eval.json":
            assert about["samples"] is None
            assert about["long_context"] is None
            return
        samples, long = about["samples"], about["long_context"]
        assert samples["count"] == 4
        assert list(samples["pass_at"]) == ["1", "2", "4"]
        assert list(samples["pass_at"].values()) == sorted(samples["pass_at"].values())
        best = samples["pass_at"]["4"]
        for way in ("one", "majority", "verifier", "weighted_vote"):
            assert samples[way]["value"] <= best + 1e-9
        assert long["tokens"] == 128
        assert long["sinks"] == 4
        assert long["window"] == 28
        assert all(long[key] > 1 for key in ("on", "off", "all"))
        assert len(long["on_by_quarter"]) == 4
        example = about["examples"][0]
        assert len(example["samples"]) == len(example["scores"]) == len(example["right"]) == 4

    def test_the_base_is_also_asked_without_the_template(self, done):
        base = json.loads((done[1] / "results" / "base_eval.json").read_text())
        assert base["exact_match_plain_prompt"]["problems"] == 12

    def test_the_verifiers_row_is_dpos_samples_reranked(self, done):
        dpo, verifier = (json.loads((done[1] / "results" / f"{n}_eval.json").read_text()) for n in ("dpo", "verifier"))
        assert verifier["exact_match"] == dpo["samples"]["verifier"] == verifier["samples"]["verifier"]
        assert verifier["kind"] == "encoder"
        assert verifier["verifier_parameters"] > 0
        assert verifier["judging"] is None or 0 <= verifier["judging"]["auc"] <= 1

    def test_the_table_says_what_the_evaluations_say(self, done):
        with (done[1] / "results" / "comparison_table.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["model"] for row in rows] == list(TITLES.values())
        assert tuple(rows[0]) == COLUMNS
        for row, name in zip(rows, TITLES, strict=True):
            about = json.loads((done[1] / "results" / f"{name}_eval.json").read_text())
            assert float(row["exact_match"]) == about["exact_match"]["value"]
            assert float(row["perplexity"]) == about["perplexity"]["stories"]["perplexity"]
        assert rows[0]["pass_at_n"] == ""
        sizes = [int(row["parameters"]) for row in rows]
        assert abs(sizes[0] / sizes[1] - 1) < 0.01  # a GPT-2 of the same size

    def test_the_checkpoint_works_on_a_small_machine(self, done):
        about = json.loads((done[1] / "results" / "inference_ok.json").read_text())
        assert about["ok"] is True
        assert about["stage"] == "dpo"
        assert about["trained_on_profile"] == "tiny"
        assert len(about["problems"]) == 8
        assert about["continuation"].startswith("In the evening")
        assert about["hardware"]["cores"] >= 1
        assert about["versions"]["torch"]

    def test_gains_need_intervals_that_do_not_overlap(self):
        def row(name, low, value, high):
            return {"model": name, "exact_match_low": low, "exact_match": value, "exact_match_high": high}

        table = [row("GPT-2 (same size)", 0, 0, 0), row("Base", 0, 0.01, 0.02), row("SFT", 0.3, 0.33, 0.36)]
        table += [row("DPO", 0.35, 0.38, 0.41), row("+Verifier", 0.3, 0.33, 0.36)]
        assert [line.split("; ")[1] for line in gains(table)] == [
            "SFT is better, and the intervals do not overlap.",
            "DPO is better, but the intervals overlap.",
            "+Verifier is not better.",
        ]
        assert gains(table)[0].startswith("Base to SFT: +32.0 points")


class TestSkipping:
    def test_what_is_done_and_unchanged_is_skipped(self, done, tmp_path):
        folder = copy_of(done, tmp_path)
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
        rows, said = run(done[0], folder)
        assert rows == done[2]
        assert [line for line in said if "done and unchanged" not in line] == []
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before

    def test_a_changed_setting_runs_its_stage_and_those_that_read_it(self, done, tmp_path):
        folder = copy_of(done, tmp_path)
        chosen = load_pipeline(profile(tmp_path, "lr = 1e-4", "lr = 5e-4"))
        assert states(chosen, folder)["dpo"] == "changed"
        assert states(chosen, folder)["sft"] == "done"
        why = {row["stage"]: row["why"] for row in pipeline_status(chosen, folder)}
        assert why["dpo"] == "stages.dpo.lr is 0.0005, and was 0.0001"
        _, said = run(chosen, folder)
        again = {line.split("] ")[1].split(":")[0] for line in said if "runs again" in line}
        assert again >= {"dpo", "answers", "verifier", "evaluate", "inference"}
        assert not again & {"tokenizer", "pretrain", "baseline", "sft", "pairs"}
        assert set(states(chosen, folder).values()) == {"done"}

    def test_a_verifier_that_judges_tokens(self, done, tmp_path):
        folder = copy_of(done, tmp_path)
        chosen = settings(tmp_path, 'kind = "encoder"', 'kind = "decoder"\nhead = "tokens"\nlm_weight = 1.0')
        _, said = run(chosen, folder)
        assert any("verifier: runs again: verifier.head is tokens, and was last" in line for line in said)
        about = json.loads((folder / "results" / "verifier_eval.json").read_text())
        assert (about["kind"], about["head"]) == ("decoder", "tokens")
        assert about["alone"]["problems"] == 12
        assert "Asked itself, that language model solves" in (folder / "results" / "report.md").read_text()
        assert "the worst of which counts" in (folder / "results" / "report.md").read_text()
        assert (
            "the worked solutions of 10 problems of the stages before" in (folder / "results" / "report.md").read_text()
        )

    def test_from_runs_a_stage_and_all_after_it(self, done, tmp_path):
        folder = copy_of(done, tmp_path)
        rows, said = run(done[0], folder, "evaluate")
        assert rows == done[2]  # the same numbers, made anew
        ran = [line.split("] ")[1].split(":")[0] for line in said if ": done in" in line]
        assert ran == ["evaluate", "inference"]

    def test_a_missing_file_is_made_anew(self, done, tmp_path):
        folder = copy_of(done, tmp_path)
        (folder / "pairs" / "pairs.jsonl").unlink()
        _, said = run(done[0], folder)
        assert any("pairs: runs again: pairs.jsonl is missing" in line for line in said)
        # The same pairs came out, so nothing after them runs again.
        assert sum(": done in" in line for line in said) == 1

    def test_another_seed_is_another_run(self, done):
        assert set(states(replace(done[0], seed=1), done[1]).values()) - {"done"} == {"changed"}

    def test_settings_are_read_back_as_they_were(self, done):
        assert read_pipeline(done[1]) == done[0]


class TestKilled:
    def test_a_stage_that_is_killed_goes_on_to_the_same_numbers(self, done, tmp_path):
        """SIGKILL in the middle of SFT: its checkpoint is used, and every later number is that of an unbroken run."""
        path = profile(tmp_path)
        folder = tmp_path / "run"
        command = [
            sys.executable,
            "-m",
            "course_lib.cli",
            "pipeline",
            "run",
            "--profile",
            path,
            "--output",
            str(folder),
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(
            command, env=environment, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            deadline = time.monotonic() + 300
            while not any(folder.glob("sft/model/checkpoints/step_*")):
                assert process.poll() is None, process.stderr.read().decode()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            process.wait()
        chosen = load_pipeline(path)
        state = {row["stage"]: (row["state"], row["why"]) for row in pipeline_status(chosen, folder)}
        assert state["pretrain"][0] == "done"
        assert state["dpo"][0] == "waiting"
        assert state["sft"][0] == "interrupted"
        assert state["sft"][1].startswith("a checkpoint after step")
        rows, said = run(chosen, folder)
        assert any("sft: continues where it was interrupted" in line for line in said)
        assert any("pretrain: done and unchanged" in line for line in said)
        assert rows == done[2]
        for stage in ("sft", "dpo"):
            ours, whole = (place / stage / "model" / "model.safetensors" for place in (folder, done[1]))
            assert ours.read_bytes() == whole.read_bytes()
            logs = [_losses(path.with_name("log.jsonl")) for path in (ours, whole)]
            assert logs[0] == logs[1]

    def test_a_checkpoint_of_other_settings_is_not_gone_on_with(self, done, tmp_path):
        folder = copy_of(done, tmp_path)
        stage = folder / "dpo"
        started = json.loads((stage / "stage.json").read_text())
        (stage / "stage.json").unlink()
        (stage / "started.json").write_text(json.dumps({"fingerprint": started["fingerprint"]} | started["key"]))
        chosen = load_pipeline(profile(tmp_path, "lr = 1e-4", "lr = 5e-4"))
        _, said = run(chosen, folder)
        assert any("dpo: begins" in line for line in said)
        log = json.loads((stage / "model" / "run.json").read_text())
        assert log["settings"]["lr"] == 5e-4


def _losses(path):
    return [(record["step"], record["loss"], record["eval_loss"]) for record in map(json.loads, path.open())]


class TestRefusals:
    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("vocab_size = 320", "vocabsize = 320", r"\[pipeline\] has the setting 'vocabsize'.*Did you mean"),
            ("tokens_target = 2_048", "", "lacks tokens_target"),
            ("worked = 0.6", "workedd = 0.6", "no corpus 'workedd'"),
            ("tokens_target", "max_epoch = 2\ntokens_target", r"\[pipeline.data_config\] has the setting 'max_epoch'"),
            ("lr = 1e-4", "lr = -1", "--lr -1"),
            ("lr = 1e-4", "learning_rate = 1", r"\[pipeline.dpo\] has the setting 'learning_rate'"),
            ("lr = 1e-4", 'model = "gpt2"', r"\[pipeline.dpo\] has the setting 'model'"),
            ("pair_samples = 12", "pair_samples = 1", "pair_samples=1"),
            ("held_out = 12", "held_out = 0", "held_out=0"),
            ("sft = 48", "sft = 48\ntemperature = 0.0", "temperature=0.0"),
            ("window = 28", "window = 28\ntemperature = 0.0", "temperature=0.0"),
            ("solutions = 10", "solutions = -1", "solutions=-1.*at least 0"),
            ("solutions = 10", "solutions = 10_000", "solutions=10000 is not possible: sft and pairs have"),
            ('kind = "encoder"', 'kind = "critic"', "kind='critic'"),
            ('kind = "encoder"', 'kind = "encoder"\nhead = "tokens"', "head='tokens' of a verifier of kind 'encoder'"),
            ('kind = "encoder"', 'kind = "decoder"\nlm_weight = 1.0', "lm_weight=1.0 with head='last'"),
            ("sft = 48", "sft = 48\nshort_share = 1.5", "short_share=1.5"),
            ("sft = 48", 'sft = "many"', r"sft='many' in the table \[pipeline.problems\].*a whole number"),
            ("sft = 48", "sft = 2.5", "sft=2.5.*a whole number"),
            ("window = 28", "window = true", "window=True.*a whole number"),
            ('perplexity_on = ["stories"]', 'perplexity_on = "prose"', "perplexity_on='prose'.*a list of names"),
            ("num_hidden_layers = 1", "num_hidden_layers = 0", "num_hidden_layers=0.*at least 1"),
            ('kind = "encoder"', 'kind = "encoder"\nlr = -1.0', "lr=-1.0 of the verifier"),
            ('kind = "encoder"', 'kind = "encoder"\nlr = "fast"', "lr='fast'.*a number"),
            ("worked = 0.6", 'worked = "most"', "gives worked the share most"),
            ("tokens_target = 2_048", 'tokens_target = "all"', "tokens_target='all'.*a whole number"),
            ("tiny-llama", "tiny-lama", "--model tiny-lama: there is no such shape.*Did you mean tiny-llama"),
            ("vocab_size = 320", "vocab_size = 10", "--vocab-size 10 is not possible"),
            ("vocab_size = 320", "vocab_size = 320\nthreads = -1", "--threads -1 is not possible"),
            ("vocab_size = 320", "vocab_size = 320\ncost = 3", r"cost=3 in the table \[pipeline\].*a table"),
        ],
    )
    def test_a_profile_that_cannot_be_run(self, tmp_path, old, new, message):
        with pytest.raises(CourseError, match=message):
            settings(tmp_path, old, new)

    def test_a_profile_without_a_pipeline(self, tmp_path):
        (tmp_path / "mine.toml").write_text('device = "cpu"\n')
        with pytest.raises(CourseError, match=r"has no table \[pipeline\]. Copy it"):
            load_pipeline(str(tmp_path / "mine.toml"))

    def test_a_corpus_that_is_too_small_for_the_target(self, tmp_path):
        chosen = settings(tmp_path, "{ worked = 0.6, sums = 0.4 }", "{ keepers_log = 1.0 }")
        chosen.data_config["tokens_target"] = 500_000
        with pytest.raises(CourseError, match="keepers_log has .* passes, and max_epochs is 4"):
            run(chosen, tmp_path / "run")
        assert states(chosen, tmp_path / "run")["pretrain"] == "interrupted"  # nothing is half done: it begins anew

    def test_a_folder_of_something_else(self, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "notes.txt").write_text("mine")
        with pytest.raises(CourseError, match="holds other files, and no pipeline"):
            run(settings(tmp_path), tmp_path / "run")
        assert (tmp_path / "run" / "notes.txt").read_text() == "mine"

    def test_an_unknown_stage(self, tmp_path):
        with pytest.raises(CourseError, match="--from verifierr: there is no such stage.*Did you mean verifier"):
            run(settings(tmp_path), tmp_path / "run", "verifierr")
        assert not (tmp_path / "run").exists()
        assert (*(stage.name for stage in STAGES), "report") == NAMES

    def test_two_at_once(self, done, tmp_path):
        from filelock import FileLock

        folder = copy_of(done, tmp_path)
        with FileLock(folder / ".lock"), pytest.raises(CourseError, match="Another process is running the pipeline"):
            run(done[0], folder)

    def test_no_pairs_is_one_sentence(self, tmp_path):
        """Without any chance all answers to a problem are the same, so none is better than another."""
        chosen = settings(tmp_path, "sft = 48", "sft = 48\ntemperature = 1e-4")
        with pytest.raises(CourseError, match="none has a right and a wrong answer among its samples.*pair_samples"):
            run(chosen, tmp_path / "run")

    def test_a_folder_without_a_pipeline(self, tmp_path):
        with pytest.raises(CourseError, match="holds no pipeline that can be read"):
            read_pipeline(tmp_path)
