"""A small training run for tests/training/test_kill.py: python killed_run.py FOLDER"""

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
    main(Path(sys.argv[1]))
