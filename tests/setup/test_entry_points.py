"""`speedrun.sh` and `scripts/tacc/`: what they submit for each machine, and that the one button ends with a report."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path, published):
    """A clone with this environment as its .venv, and a home folder in which nothing is."""
    subprocess.run(["git", "clone", "--quiet", str(published), str(tmp_path / "clone")], check=True)
    (tmp_path / "clone" / ".venv").symlink_to(sys.prefix)
    (tmp_path / "home").mkdir()
    return tmp_path / "clone"


def call(clone, *words, **variables):
    environment = {
        "HOME": str(clone.parent / "home"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(clone),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(["bash", *words], cwd=clone, env=environment | variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_one_button_ends_with_a_report(clone):
    said = call(clone, "speedrun.sh", "local", PROFILE="smoke")
    report = re.search(r"^(\S+/results/)report\.html has", said, re.MULTILINE)
    assert (clone / report[1] / "report.md").read_text().startswith("# ")
    assert (clone / report[1] / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "queue", "nodes"),
    [("tacc_gh200", "gh-dev", 2), ("tacc_h100_lonestar6", "gpu-h100", 1)],
)
def test_what_tries_a_machine(clone, profile, queue, nodes):
    """The smallest pipeline, and then the profile's own pretraining under torchrun with a folder of its own."""
    said = call(
        clone, "speedrun.sh", "tacc-smoke", "--dry-run", PROFILE=profile, ACCOUNT="ABC-1", SCRATCH="/scratch/me"
    )
    pipeline, training = said.split("#!/bin/bash")[1:]
    for script in (pipeline, training):
        assert f"#SBATCH --partition={queue}\n" in script
        assert "#SBATCH --account=ABC-1\n" in script
    assert "pipeline run --profile smoke --set device=cuda --output /scratch/me/course/smoke" in pipeline
    assert f"#SBATCH --nodes={nodes}\n" in training
    assert f"torchrun --nnodes={nodes} " in training
    assert "--tokens-target 2000000 " in training
    assert f"--output /scratch/me/course/smoke-train/course/pretrain/{profile}" in training


def test_what_submits_the_long_runs(clone):
    variables = {"PROFILE": "tacc_h100", "SCRATCH": "/scratch/me"}
    said = call(clone, "scripts/tacc/submit_pretrain.sh", "--dry-run", **variables)
    assert "--output /scratch/me/course/pretrain/tacc_h100" in said
    for words in (("speedrun.sh", "tacc"), ("scripts/tacc/submit_speedrun.sh",)):  # the first one calls the second
        said = call(clone, *words, "--dry-run", **variables)
        assert "pipeline run --profile tacc_h100 --output /scratch/me/course/pipeline/tacc_h100" in said
