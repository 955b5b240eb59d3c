"""kill -9 at random moments, as often as it takes: the run ends with the losses of one that was left alone."""

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from course_lib.training import read_log

PROGRAM = Path(__file__).with_name("killed_run.py")
STEPS = 60


@pytest.fixture
def program():
    """The program that forks a run for each folder it is told."""
    command = [sys.executable, str(PROGRAM)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    yield process
    process.stdin.close()
    assert process.wait(60) == 0


def run(program, folder, kill_after=None, delay=0.0):
    """A run in `folder`; returns its exit status.

    kill_after: kill it when it has done so many steps more, and `delay` seconds have passed. The status is then -9,
    unless it was quicker.
    """
    program.stdin.write(f"{folder}\n".encode())
    process, goal = int(program.stdout.readline()), newest(folder) + (kill_after or 0)
    while kill_after is not None and not select.select([program.stdout], [], [], 0.0005)[0]:
        if newest(folder) >= goal:
            time.sleep(delay)
            if not select.select([program.stdout], [], [], 0)[0]:  # else it has ended, and its number may be another's
                os.kill(process, signal.SIGKILL)
            break
    return int(program.stdout.readline())


def newest(folder):
    """How many steps the newest checkpoint has done."""
    return max((int(path.name[5:]) for path in (folder / "checkpoints").glob("step_??????")), default=0)


@pytest.mark.slow
def test_a_killed_run_resumes_to_bit_identical_losses(program, tmp_path):
    """In a step, in a save, between two renames; and before the first checkpoint, where it begins again."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(program, whole) == 0
    expected = read_log(whole / "log.jsonl")
    step = sum(record.seconds for record in expected) / STEPS
    rng, statuses = random.Random(0), []
    while not statuses or statuses[-1] != 0:
        statuses.append(run(program, cut, rng.randint(0, 5), rng.uniform(0, 10 * step)))
    assert statuses.count(-signal.SIGKILL) >= 3
    got = read_log(cut / "log.jsonl")
    assert [r.loss for r in got] == [r.loss for r in expected]
    assert len(got) == STEPS
    assert len(list((cut / "checkpoints").glob("step_*"))) == 2
