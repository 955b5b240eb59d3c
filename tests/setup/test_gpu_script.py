"""`.ci/gpu`, tried on a CPU: each kind of step, what it writes, and that it ends in time."""

import importlib.util
import json
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

from course_lib.cli import parser
from course_lib.execution.notebooks.project import find_chapters
from course_lib.execution.profile import profile_path, read_profile

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "gpu"


@pytest.fixture(scope="module")
def gpu():
    loader = SourceFileLoader("ci_gpu", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("ci_gpu", loader))
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def run(*words):
    return subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    )


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(900)
def test_dry_runs_every_kind_of_step(tmp_path):
    done = run("--dry", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + (tmp_path / "results.json").read_text()
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name: step["status"] for name, step in results["steps"].items()} == {
        "parity/devices": "ok", "chapters/01": "ok", "benchmarks/scratch": "ok"
    }  # fmt: skip
    assert results["dry"] is True
    assert results["machine"]["usable_cores"] >= 1
    assert results["steps"]["chapters/01"]["figures"]["recorded"]["own_answers_pass"] == 1.0
    assert results["steps"]["benchmarks/scratch"]["figures"]


def test_without_a_gpu_it_says_so():
    done = run()
    assert done.returncode == 2
    assert "torch sees no CUDA device here" in done.stderr


def test_on_a_gpu_every_chapter_and_benchmark_runs_there(gpu, tmp_path):
    steps = gpu.steps(tmp_path, dry=False)
    chapters = {name.partition("/")[2] for name in steps if name.startswith("chapters/")}
    sized = read_profile(profile_path("gpu_short"))
    assert chapters == {chapter.id[:2] for chapter in find_chapters([]) if chapter.id in sized}
    assert sized["device"] == "cuda"
    assert {name for name in steps if name.startswith("benchmarks/")} == {
        f"benchmarks/{each}" for each in ("lora", "train", "qlora")
    }
    for name, (_, command) in steps.items():
        assert "cpu" not in command, name
        if command[1:3] == ["-m", "course_lib.cli"]:
            parser().parse_args(command[3:])  # the words are those of our commands


def test_a_step_that_takes_too_long_or_fails_says_so(gpu):
    slow = gpu.run([sys.executable, "-u", "-c", "import time; print('begun'); time.sleep(60)"], 3)
    assert slow["status"] == "too slow"
    assert slow["output"] == ["begun"]
    assert slow["seconds"] < 30
    failed = gpu.run([sys.executable, "-c", "raise SystemExit('no such kernel')"], 60)
    assert failed["status"] == "failed"
    assert failed["output"] == ["no such kernel"]


def test_it_stays_under_nine_minutes(gpu):
    assert gpu.BUDGET_S < 9 * 60
