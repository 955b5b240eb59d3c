"""kill -9 at random moments, as often as it takes: the run ends with the losses of one that was left alone."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from course_lib.training import read_log

PROGRAM = Path(__file__).with_name("killed_run.py")


def start(folder):
    return subprocess.Popen([sys.executable, str(PROGRAM), str(folder)], stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_run_resumes_to_bit_identical_losses(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = start(whole)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors

    rng, kills = random.Random(0), 0
    while True:
        process = start(cut)
        while kills < 6 and process.poll() is None and not (cut / "checkpoints").exists():
            time.sleep(0.01)  # before the first checkpoint there is nothing to lose
        # from the first steps on, at any moment: in a step, in a save, between two renames
        seconds = rng.uniform(0.0, 0.15) if kills == 0 else rng.uniform(1.5, 3.5)
        try:
            _, errors = process.communicate(timeout=seconds if kills < 6 else 120)
            assert process.returncode == 0, errors
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
    assert kills >= 1
    expected, got = (read_log(folder / "log.jsonl") for folder in (whole, cut))
    assert [r.loss for r in got] == [r.loss for r in expected]
    assert len(got) == 60
    assert len(list((cut / "checkpoints").glob("step_*"))) == 2
