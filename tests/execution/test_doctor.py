"""`course doctor` says what is there, what is not, and how to get it."""

import json
from importlib import metadata

import pytest

from course_lib import cli
from course_lib.execution import doctor
from course_lib.execution.doctor import ChapterHere, all_minutes, chapters_here, missing, off_their_pins


def test_every_chapter_is_held_against_the_free_memory(monkeypatch):
    monkeypatch.setattr(doctor, "available_memory", lambda: 1e9)
    fits = {each.chapter: each.fits for each in chapters_here("cpu")}
    assert fits["00_foundations"]
    assert not fits["02_full_finetuning"]


def test_the_longest_chapter_bounds_the_time(monkeypatch):
    monkeypatch.setattr(doctor, "usable_cores", lambda: 4)
    assert all_minutes([ChapterHere("a", 1, 8, True), ChapterHere("b", 1, 4, True)]) == 8
    assert all_minutes([ChapterHere(name, 1, 4, True) for name in "abcdefgh"]) == 8


def test_a_profile_for_a_gpu_without_one(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "usable_cores", lambda: 4)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert all_minutes([ChapterHere("a", 1, 8, True), ChapterHere("b", 1, 4, True)], "cuda") == 12  # they share the GPU
    assert cli.main(["doctor", "--profile", "gpu"]) == 0
    said = "none of them can run here: Profile 'gpu' wants 1 GPU and torch sees none. Use --profile cpu."
    assert said in (printed := capsys.readouterr().out)
    assert "fits into the memory" not in printed
    assert cli.main(["doctor", "--profile", "cpu"]) == 0
    assert "can run here" not in capsys.readouterr().out


def test_a_missing_program_comes_with_its_cure(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None if name == "bwrap" else f"/bin/{name}")
    assert [(each.name, each.cure) for each in missing()] == [("bwrap", "sudo apt install bubblewrap")]


@pytest.mark.parametrize("lacking", [[], [doctor.Missing("bwrap", "a sandbox", "apt install bubblewrap")]])
def test_what_is_missing_is_said_also_where_nothing_is(capsys, monkeypatch, lacking):
    monkeypatch.setattr(doctor, "missing", lambda: lacking)
    assert cli.main(["doctor", "--profile", "smoke"]) == 0
    printed = capsys.readouterr().out
    assert ("nothing is missing" in printed) == (not lacking)
    assert ("\nmissing\n  bwrap          for a sandbox: apt install bubblewrap\n" in printed) == bool(lacking)


def test_versions_are_held_against_the_pins(tmp_path):
    numpy, torch = metadata.version("numpy"), metadata.version("torch").partition("+")[0]
    (tmp_path / "constraints.txt").write_text(
        f"# pins\nnumpy=={numpy} ; python_version >= '3.11'\nnumpy==0.1 ; python_version < '3.0'\ntorch==1.0\n"
    )
    assert off_their_pins(tmp_path) == {"torch": (torch, "1.0")}


def test_the_command_also_outside_a_clone(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "available_memory", lambda: int(64e9))
    assert cli.main(["doctor", "--profile", "smoke"]) == 0
    said = capsys.readouterr().out
    assert "chapters at profile smoke" in said
    assert "03_lora" in said
    monkeypatch.setattr(doctor, "available_memory", lambda: int(1e8))
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert not any(each["fits"] for each in report["chapters"])
    assert report["machine"]["usable_cores"] >= 1


@pytest.mark.parametrize("action", ["list", "show", "check"])
def test_profile_command(capsys, action):
    assert cli.main(["profile", action, *(["tacc_h100"] if action != "list" else [])]) == 0
    said = capsys.readouterr().out
    assert {"list": "tacc_gh200", "show": "tokens_target = 5000000000", "check": "tacc_h100 is right"}[action] in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "tacc_a100", "--set", "model.batch_size=64"], "and a GPU of 40 GB has 39.0 to give"),
        (["check", "tacc_a100", "--set", "model.config=gpt3"], "gpt3"),
        (["check", "tacc_a100", "--set", "model.seq_len=100000"], "has 2048 positions"),
        (["check", "cpu", "--set", "03_lora.stpes=1"], "Did you mean steps?"),
        (["check", "tacc_a100", "--here"], "wants 3 GPUs"),
        (["show", "cpu", "--table", "03_lroa"], "Did you mean 03_lora?"),
        (["check"], "needs the name of a profile"),
        (["check", "cpuu"], "Did you mean cpu"),
    ],
)
def test_profile_command_refuses(capsys, arguments, said):
    assert cli.main(["profile", *arguments]) != 0
    assert said in capsys.readouterr().err


def test_numbers_of_things_are_in_plain_english(capsys):
    assert cli.main(["profile", "check", "local_rtx3060"]) == 0
    assert "hardware  cuda, 1 GPU of 12 GB on each node, bf16, 1 process on 1 node\n" in capsys.readouterr().out
    assert cli.main(["profile", "check", "tacc_a100"]) == 0
    assert "3 GPUs of 40 GB on each node, bf16, 3 processes on 1 node\n" in capsys.readouterr().out


def test_a_profile_that_is_no_text(capsys, tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    assert cli.main(["profile", "show", str(tmp_path / "mine.toml")]) == 2
    assert "mine.toml is not text in UTF-8" in capsys.readouterr().err


def test_a_model_that_no_reader_could_use_is_refused(capsys):
    change = ["--set", "model.config=llama-13b", "--set", "hardware.gpu_memory_gb=400"]
    assert cli.main(["profile", "check", "tacc_a100", *change]) != 0
    assert "has to fit into a GPU of 12 GB" in capsys.readouterr().err
