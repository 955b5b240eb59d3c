"""kill -9 at random moments, as often as it takes: the run ends with the losses of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from course_lib.training import read_log

PROGRAM = Path(__file__).with_name("killed_run.py")
STEPS = 60


@pytest.fixture
def program():
    """The program that forks a run for each folder it is told."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    yield process
    process.stdin.close()
    assert process.wait(60) == 0


def run(program, folder, seconds=None):
    """A run in `folder`, killed after so many seconds; returns its exit status, -9 for one that was killed."""
    program.stdin.write(f"{folder}\n")
    process = int(program.stdout.readline())
    timer = threading.Timer(seconds or 0, os.kill, (process, signal.SIGKILL))
    if seconds is not None:
        timer.start()
    status = int(program.stdout.readline())  # it has ended by now, and its number is not in use
    timer.cancel()
    return status


@pytest.mark.slow
def test_a_killed_run_resumes_to_bit_identical_losses(program, tmp_path):
    """In a step, in a save, between two renames; where a run is killed before its first checkpoint it begins again."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(program, whole) == 0
    expected = read_log(whole / "log.jsonl")
    each = sum(record.seconds for record in expected) / STEPS
    rng, kills, midway = random.Random(0), 0, 0
    while run(program, cut, rng.uniform(0, 25 * each) if kills < 60 else None) != 0:
        kills += 1
        midway += len(list((cut / "checkpoints").glob("step_*"))) > 0 and len(read_log(cut / "log.jsonl")) < STEPS
    assert midway >= 3, f"of {kills} kills"
    got = read_log(cut / "log.jsonl")
    assert [r.loss for r in got] == [r.loss for r in expected]
    assert len(got) == STEPS
    assert len(list((cut / "checkpoints").glob("step_*"))) == 2
