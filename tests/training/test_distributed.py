"""Two gloo processes under torchrun against one process at the same global batch."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from course_lib.data import IGNORE
from course_lib.training import read_log
from course_lib.training.distributed import World

PROGRAM = str(Path(__file__).with_name("distributed_run.py"))


ALONE = [sys.executable, PROGRAM]
TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", PROGRAM]
WHY = "float32: gradients are added in another order; the issue asks for 1e-5"


def losses(command, folder, *options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*command, str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [record.loss for record in read_log(folder / "log.jsonl")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_two_processes_give_the_losses_of_one(tmp_path, parity, kind, adapter):
    """Eight steps with evaluations and checkpoints; then the checkpoint of each run is resumed as the other kind."""
    alone = losses(ALONE, tmp_path / "alone", adapter)
    together = losses(TOGETHER, tmp_path / "together", adapter, kind)
    assert len(together) == len(alone) == 8
    what = f"{kind.upper()} on two processes, {adapter}, 8 steps"
    parity.close(what, "one process, same global batch", together, alone, 1e-5, WHY)
    ours, theirs = (
        load_file(tmp_path / name / "points" / "step_000004" / "weights.safetensors") for name in ("together", "alone")
    )
    assert ours.keys() == theirs.keys()
    apart = [((ours[name] - theirs[name]).norm() / theirs[name].norm()).item() for name in theirs]
    assert max(apart) < 1e-4  # not element by element: where a gradient is about 0, its sign decides Adam's step
    for name in ("alone", "together"):
        shutil.rmtree(tmp_path / name / "points" / "step_000008")
    crossed = losses(TOGETHER, tmp_path / "alone", adapter, kind, "resume")
    back = losses(ALONE, tmp_path / "together", adapter, "resume")
    np.testing.assert_allclose(crossed, alone, rtol=1e-5)
    np.testing.assert_allclose(back, alone, rtol=1e-5)


def test_rows_are_shared_out():
    ids = torch.arange(10).reshape(5, 2)
    batch = {"input_ids": ids, "labels": ids}
    assert World(0, 2).rows(batch)["input_ids"].tolist() == [[0, 1], [4, 5], [8, 9]]
    assert World(1, 2).rows(batch)["input_ids"].tolist() == [[2, 3], [6, 7]]
    assert World(4, 6).rows(batch)["labels"].tolist() == [[8, 9]]
    idle = World(5, 6).rows(batch)
    assert (idle["input_ids"].tolist(), idle["labels"].tolist()) == ([[0, 1]], [[IGNORE, IGNORE]])
