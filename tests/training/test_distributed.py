"""Two gloo processes under torchrun against one process at the same global batch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from course_lib.errors import CourseError
from course_lib.training import read_log
from course_lib.training.distributed import World

PROGRAM = str(Path(__file__).with_name("distributed_run.py"))


def losses(command, log):
    done = subprocess.run([*command, str(log)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return [record.loss for record in read_log(log)]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path, parity):
    alone = losses([sys.executable, PROGRAM], tmp_path / "alone.jsonl")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", PROGRAM]
    together = losses(launcher, tmp_path / "together.jsonl")
    assert len(together) == len(alone) == 8
    why = "float32: gradients are added in another order; the issue asks for 1e-5"
    parity.close("DDP on two processes, 8 steps", "one process, same global batch", together, alone, 1e-5, why)


def test_rows_are_shared_out():
    batch = {"input_ids": np.arange(10).reshape(5, 2)}
    assert World(0, 2).rows(batch)["input_ids"].tolist() == [[0, 1], [4, 5], [8, 9]]
    assert World(1, 2).rows(batch)["input_ids"].tolist() == [[2, 3], [6, 7]]
    with pytest.raises(CourseError, match="A batch of 5 rows cannot be shared out to 6 processes"):
        World(0, 6).rows(batch)
