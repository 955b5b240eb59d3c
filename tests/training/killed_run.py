"""Small training runs for tests/training/test_kill.py: each line of the input is a folder, and a run in it.

Every run has a process of its own, which it is forked into: importing torch takes far longer than a run. Its number is
printed, then its exit status.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch

from course_lib.training import CheckpointConfig, Trainer, TrainingConfig


class Model(torch.nn.Module):
    """A next-token model small enough for a step to take a millisecond, with dropout."""

    def __init__(self):
        super().__init__()
        self.table, self.drop = torch.nn.Embedding(50, 32), torch.nn.Dropout(0.2)
        self.head = torch.nn.Linear(32, 50)

    def forward(self, input_ids):
        return Output(self.head(self.drop(self.table(input_ids))))


class Output:
    def __init__(self, logits):
        self.logits = logits


def main(folder: Path) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 50, (4, 12)) for _ in range(120)]
    Trainer(
        Model(),
        TrainingConfig(lr=1e-2, warmup_steps=5, grad_accum_steps=2),
        log_path=folder / "log.jsonl",
        log_every=0,
        checkpoints=CheckpointConfig(folder / "checkpoints", every=1),
    ).train(batches, resume=True)


if __name__ == "__main__":
    torch.set_num_threads(1)  # a fork has one thread, whatever its parent had
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            main(Path(line.strip()))
            os._exit(0)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
