"""Whose the folder of a run is: new, resumed, mistyped, forced, or written by version 0.1."""

import json
from dataclasses import asdict

import pytest
from tiny_runs import run, train

from course_lib.adapters.files import adapter_config
from course_lib.cli import main
from course_lib.errors import CourseError
from course_lib.finetuning.folder import LEFT_BY_A_RUN, RENAMED, claim, clear, stored_settings
from course_lib.finetuning.settings import Settings, complete

OLD_NAMES = {new: old for old, new in RENAMED.items()}


def begun(folder, **settings):
    """A folder with the run.json of a run with these settings."""
    folder.mkdir(parents=True)
    values = {name: getattr(complete(settings), name) for name in Settings.__dataclass_fields__}
    (folder / "run.json").write_text(json.dumps({"settings": values, "data": "x"}))
    return folder


def test_a_new_folder_is_a_new_run(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".hidden").touch()
    for name in ("absent", "empty"):
        settings, known = claim(tmp_path / name, {"mode": "full"}, resume=False, force=False)
        assert (settings, known) == (complete({"mode": "full"}), {})


def test_a_resumed_run_has_its_own_settings(tmp_path):
    folder = begun(tmp_path / "run", mode="full", lr=0.25)
    settings, known = claim(folder, {"lr": 0.25, "log_every": 3, "eval_batch_size": 7}, resume=True, force=False)
    assert (settings.mode, settings.lr, settings.log_every, settings.eval_batch_size) == ("full", 0.25, 3, 7)
    assert known["data"] == "x"
    with pytest.raises(CourseError, match="was begun with --lr 0.25, not 0.5: it cannot continue with another value"):
        claim(folder, {"lr": 0.5}, resume=True, force=False)
    with pytest.raises(CourseError, match="was begun with --weights None, not w.pt"):
        claim(folder, {"weights": "w.pt"}, resume=True, force=False)


# --- --resume with a mistyped --output ---


def test_resume_without_a_run_names_similar_folders(tmp_path):
    for name in ("notes", "letters", "other"):
        begun(tmp_path / name)
    (tmp_path / "note_paper").mkdir()
    for resume, advice in ((True, "Leave --resume out to begin one there"), ("auto", "With --dataset")):
        with pytest.raises(CourseError, match="nots holds no run to resume. Did you mean .*/notes") as error:
            claim(tmp_path / "nots", {}, resume=resume, force=False)
        assert "note_paper" not in str(error.value)
        with pytest.raises(CourseError, match="The runs beside it are .*/letters, .*/notes, .*/other"):
            claim(tmp_path / "zzz", {"mode": "lora"}, resume=resume, force=False)
        with pytest.raises(CourseError, match=f"holds no run to resume. {advice}"):
            claim(tmp_path / "elsewhere" / "notes", {}, resume=resume, force=False)
    assert not (tmp_path / "nots").exists()


def test_resume_never_begins_a_run(tmp_path):
    """Not with a data set named, not without similar runs, not in an empty folder, not with checkpoints alone."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "lost" / "checkpoints" / "step_000001").mkdir(parents=True)
    for name in ("absent", "empty", "lost"):
        with pytest.raises(CourseError, match=f"{name} holds no run to resume. Leave --resume out .* --resume auto"):
            claim(tmp_path / name, {"dataset": "notes.txt", "steps": 5}, resume=True, force=False)
    assert not (tmp_path / "absent").exists()


def test_the_same_command_begins_and_resumes(tmp_path):
    """What a cluster sends again and again: it says all that a new run needs. A typing error in --output is told from
    it by the run of a similar name that has just these settings."""
    given = {"dataset": "notes.txt", "lr": 0.5, "steps": 20}
    begun(tmp_path / "run_1", **given)
    with pytest.raises(CourseError, match="Did you mean .*/run_1. Without --resume a new run begins there"):
        claim(tmp_path / "run1", given, resume="auto", force=False)
    for other in ({"seed": 1}, {"lr": 0.1}):
        settings, known = claim(tmp_path / "run_2", given | other, resume="auto", force=False)
        assert known == {}
        assert settings.steps == 20
    assert claim(tmp_path / "far_away", given, resume="auto", force=False)[1] == {}


def test_a_damaged_neighbour_is_no_obstacle(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "run.json").write_text("{")
    assert claim(tmp_path / "note", {"dataset": "x.txt"}, resume="auto", force=False)[1] == {}
    with pytest.raises(CourseError, match="Did you mean .*/notes"):
        claim(tmp_path / "note", {}, resume="auto", force=False)


def test_the_command_refuses_a_mistyped_folder(models, text, capsys):
    assert run(models, text, "--steps", 1) == 0
    capsys.readouterr()
    assert train("--output", models / "rum", "--resume") == 2
    told = capsys.readouterr()
    assert f"rum holds no run to resume. Did you mean {models / 'run'}?" in told.err
    assert told.out == ""
    assert not (models / "rum").exists()


# --- what is not the folder of a run ---


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"settings": 3}',
        '{"settings": {"mode": "x"}}',
        '{"settings": {"mode": "lora", "lr": "fast"}}',
        '{"settings": {"mode": "lora", "colour": 1}}',
    ],
)
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(CourseError, match="run.json is not the record of a run .*--force"):
        claim(tmp_path, {}, resume=True, force=False)


def test_force_clears_what_a_run_left_and_nothing_else(tmp_path):
    folder = begun(tmp_path / "run")
    names = [pattern.replace("*", "-00001-of-00002") for pattern in LEFT_BY_A_RUN]
    for name in (*names, "mine.txt", "model_card.md", "my_model.safetensors"):
        (folder / name).write_text("x")
    (folder / "checkpoints").mkdir()
    assert claim(folder, {}, resume=False, force=True)[1] == {}
    clear(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["mine.txt", "model_card.md", "my_model.safetensors"]


def test_force_does_not_clear_a_model_or_what_is_read(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    with pytest.raises(CourseError, match="holds config.json and no run.json: it is not the folder of a run"):
        claim(tmp_path / "model", {}, resume=False, force=True)
    folder = begun(tmp_path / "run", mode="full")
    for given in (
        {"model": str(folder)},
        {"dataset": str(folder / "log.jsonl")},
        {"weights": str(folder / "run.json")},
    ):
        (folder / "log.jsonl").touch()
        with pytest.raises(CourseError, match="lies in .*run, which --force would clear"):
            claim(folder, given, resume=False, force=True)


# --- version 0.1 ---


def as_version_01(path):
    """run.json with the settings' former names, and without those that came later."""
    about = json.loads(path.read_text())
    new = {"weights", "eval_strategy", "eval_batch_size", "backend", "quant_type", "double_quant"}
    old = {OLD_NAMES.get(name, name): value for name, value in about["settings"].items() if name not in new}
    assert {"dropout", "rslora", "targets", "stages", "accumulate", "clip", "floor"} <= old.keys()
    path.write_text(json.dumps(about | {"settings": old}))


@pytest.mark.parametrize("mode", ["lora", "butterfly-block"])
def test_a_run_of_version_01_is_resumed_and_exported(models, text, capsys, mode):
    options = ["--mode", mode, "--steps", 3, "--checkpoint-every", 1, "--lr", 1e-2, "--grad-accum-steps", 2]
    options += ["--use-rslora", "--lora-dropout", 0.1] if mode == "lora" else ["--butterfly-block-size", 8]
    assert run(models, text, *options) == 0
    folder = models / "run"
    before = {name: (folder / name).read_bytes() for name in ("log.jsonl", "adapter_model.safetensors")}
    config = adapter_config(folder)
    as_version_01(folder / "run.json")
    assert main(["adapters", "export", str(folder / "checkpoints" / "step_000003"), "--output", str(models / "x")]) == 0
    assert adapter_config(models / "x") == config
    assert main(["adapters", "info", str(folder)]) == 0
    assert f"trained  {mode} on {text}" in capsys.readouterr().out
    assert train("--output", folder, "--resume", *options) == 0
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert json.loads((folder / "run.json").read_text())["settings"].keys() == Settings.__dataclass_fields__.keys()


def test_a_run_of_qlora_before_our_own_goes_on_with_bitsandbytes():
    """Mode qlora was bitsandbytes' NF4 with double quantisation, and run.json did not say so."""
    stored = stored_settings({"settings": {"mode": "qlora"}})
    assert (stored["backend"], stored["quant_type"], stored["double_quant"]) == ("bitsandbytes", "nf4", True)
    new = complete({"mode": "qlora"})
    assert (new.backend, new.quant_type, new.double_quant) == ("ours", "nf4", True)
    assert stored_settings({"settings": asdict(new)})["backend"] == "ours"
