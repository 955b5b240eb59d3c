"""Which build of torch set-up takes: every answer that pip and the index of CPU wheels can give."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "course_lib" / "setup"))

import hosted  # noqa: E402
import torch_build  # noqa: E402
import virtual_environment  # noqa: E402

PIN = "torch==2.13.0"
CPU = torch_build.CPU_INDEX
WITH_CUDA = [
    ("torch", "https://x/torch.whl"),
    ("nvidia-cublas", "https://x/a.whl"),
    ("nvidia-nccl-cu13", "https://x/b"),
]
WITHOUT = [("torch", "https://x/torch.whl"), ("sympy", "https://x/sympy.whl")]


def choose(wish="", index="", gpu=False, pip=WITH_CUDA, cpu_index=WITHOUT):
    """The choice, and which indexes were asked on the way. None: no answer."""
    asked = []

    def ask(where):
        asked.append(where)
        return {"": pip, CPU: cpu_index}[where]

    return torch_build.choose(PIN, wish, index, gpu, ask), asked


@pytest.fixture(autouse=True)
def linux(monkeypatch):
    monkeypatch.setattr(torch_build.sys, "platform", "linux")
    monkeypatch.setattr(torch_build, "download_size", lambda packages: "2.9 GB")


def test_the_commonest_machine_gets_the_cpu_build_and_is_asked_nothing():
    choice, asked = choose()
    assert choice.index == CPU
    assert choice.why == f"the CPU build of {PIN} from {CPU}"
    assert asked == ["", CPU]


def test_pips_own_choice_stays_where_it_is_a_cpu_build():
    choice, asked = choose(pip=WITHOUT)
    assert (choice.index, asked) == ("", [""])
    assert "which is for the CPU" in choice.why


def test_where_the_index_cannot_be_reached_the_size_is_said_first():
    choice, _ = choose(cpu_index=None)
    assert choice.index == ""
    assert "with CUDA, 2.9 GB to download, because" in choice.why
    assert choice.needed_gb == torch_build.CUDA_DISK_GB


def test_without_any_answer_pip_tries_and_says_why_it_fails():
    choice, _ = choose(pip=None, cpu_index=None)
    assert choice.index == ""
    assert "neither" in choice.why


def test_where_only_the_index_of_cpu_wheels_answers_it_is_taken():
    assert choose(pip=None)[0].index == CPU


@pytest.mark.parametrize("pip", [WITH_CUDA, WITHOUT, None])
def test_a_gpu_gets_pips_own_build_without_a_question(pip):
    choice, asked = choose(gpu=True, pip=pip)
    assert (choice.index, asked) == ("", [])
    assert choice.needed_gb == torch_build.CUDA_DISK_GB


@pytest.mark.parametrize("gpu", [True, False])
def test_who_knows_better_decides(gpu):
    assert choose("cuda", gpu=gpu)[0].index == ""
    assert choose("cpu", gpu=gpu)[0].index == CPU
    assert choose("cpu", gpu=gpu, pip=WITHOUT)[0].index == ""
    assert choose("cuda", index="https://mine", gpu=gpu)[0].index == "https://mine"
    with pytest.raises(ValueError, match=r"TORCH=cpu asks for the CPU build.*TORCH_INDEX=URL"):
        choose("cpu", gpu=gpu, cpu_index=None)
    with pytest.raises(ValueError, match="TORCH=gpu is not possible"):
        choose("gpu", gpu=gpu)


def test_another_index_is_taken_as_it_is():
    choice, asked = choose(index="https://mine/simple")
    assert (choice.index, asked) == ("https://mine/simple", [])


def test_macos_has_no_cuda_to_avoid(monkeypatch):
    monkeypatch.setattr(torch_build.sys, "platform", "darwin")
    choice, asked = choose()
    assert (choice.index, asked) == ("", [])


def fake_pip(monkeypatch, status, report):
    """subprocess.run that answers as pip does; the commands it was given."""
    commands = []

    def run(command, **_options):
        commands.append(command)
        return subprocess.CompletedProcess(command, status, json.dumps(report).encode())

    monkeypatch.setattr(torch_build.subprocess, "run", run)
    return commands


def test_pips_report_is_read_and_an_index_that_hangs_is_not_waited_for(monkeypatch):
    item = {"metadata": {"name": "torch"}, "download_info": {"url": "https://x/torch.whl"}}
    commands = fake_pip(monkeypatch, 0, {"install": [item, {"metadata": {"name": "nvidia-cublas"}}]})
    ask = torch_build.asker(["python", "-m", "pip"], PIN)
    assert ask("") == [("torch", "https://x/torch.whl"), ("nvidia-cublas", "")]
    assert "--dry-run" in commands[0]
    ask(CPU)
    assert commands[1][commands[1].index("--timeout") + 1] == str(torch_build.PATIENCE_S)
    fake_pip(monkeypatch, 1, {})
    assert ask(CPU) is None


def test_sizes_come_from_the_server_or_are_said_to_be_about(monkeypatch):
    monkeypatch.undo()

    class Answer:
        headers = {"Content-Length": "1500000000"}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(torch_build.urllib.request, "urlopen", lambda request, timeout: Answer())
    assert torch_build.download_size(WITHOUT) == "3.0 GB"

    def unreachable(request, timeout):
        raise OSError("no route")

    monkeypatch.setattr(torch_build.urllib.request, "urlopen", unreachable)
    assert torch_build.download_size(WITHOUT) == "about 3 GB"


def test_set_up_installs_what_was_chosen_and_says_so(monkeypatch, tmp_path, capsys):
    (tmp_path / "constraints.txt").write_text(f"{PIN}\n")
    installed = []
    monkeypatch.setattr(virtual_environment, "run_logged", lambda command, *_: installed.append(command))
    monkeypatch.setattr(torch_build, "choose", lambda *_: torch_build.Choice(CPU, "the CPU build, for a test"))
    monkeypatch.setattr(virtual_environment, "check_machine", lambda *_, **__: None)
    virtual_environment.install_torch(str(tmp_path), "", virtual_environment.Progress())
    assert "the CPU build, for a test" in capsys.readouterr().out
    assert installed[0][-4:] == ["--no-deps", "--index-url", CPU, PIN]


def test_hosted_machines_decide_in_the_same_way(monkeypatch, capsys):
    commands = []
    monkeypatch.setattr(torch_build, "choose", lambda *_: torch_build.Choice(CPU, "chosen"))
    monkeypatch.setattr(hosted.subprocess, "run", lambda command, **_: commands.append(command))
    assert hosted.main(["torch,data"]) == 0
    assert [CPU in command for command in commands] == [True, False, False, False, False]
    assert "--no-deps" in commands[0]  # that index has other versions of what torch needs than the pins say
    assert "--no-deps" not in commands[1]  # pip's own index has them; torch itself is there by now
    assert commands[1][-1] == commands[0][-1]
    assert commands[3][-1].endswith("[torch,data]")
    del commands[:]
    monkeypatch.setenv("NEWEST", "1")
    assert hosted.main(["torch"]) == 0
    assert [command[-1] for command in commands] == ["pip", "torch", "torch"]
    assert not any("-c" in command for command in commands)
    assert hosted.main([]) == 2
    assert "Binder" in capsys.readouterr().out


def test_the_index_is_named_in_one_place():
    """Set-up, Binder, the workflows and the pages all go through this setting."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    endings = (".py", ".yml", ".md", ".toml", ".ipynb", "postBuild", "Makefile")
    paths = [ROOT / name for name in tracked if name.endswith(endings)]
    named = [path.name for path in paths if path.is_file() and CPU in path.read_text(encoding="utf-8")]
    assert named == ["torch_build.py"]
