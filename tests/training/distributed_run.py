"""Runs for tests/training/test_distributed.py, alone or under torchrun: distributed_run.py RUN ...

RUN is FOLDER:full, FOLDER:lora or FOLDER:bfloat16 (full training of weights in it), with :fsdp and :resume after it
where that is wanted; several runs follow one another in the same processes. The model is the course's own decoder.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from course_lib.adapters import inject_lora
from course_lib.data import pad
from course_lib.evaluation import evaluate_loss
from course_lib.models.config import CONFIGS
from course_lib.models.decoder import Decoder
from course_lib.training import CheckpointConfig, Trainer, TrainingConfig
from course_lib.training.distributed import World, finish, start


def train(folder: Path, options: list[str], world: World) -> None:
    torch.manual_seed(0)
    model = Decoder(replace(CONFIGS["modern-1m"], vocab_size=97, num_hidden_layers=2))
    if "lora" in options:
        inject_lora(model, ["q_proj", "v_proj"], rank=4)
    if "bfloat16" in options:
        model.bfloat16()
    rng = np.random.default_rng(0)

    def batch(rows):
        examples = [rng.integers(3, 97, n).tolist() for n in rng.integers(2, 20, rows)]  # unequal targets a process
        return pad([{"input_ids": ids, "labels": ids} for ids in examples], 2)

    batches = [batch(rows) for rows in (4, 3, 1, 4) * 4]
    held_out = rng.integers(3, 97, (4, 16))
    trainer = Trainer(
        model,
        TrainingConfig(lr=1e-2, warmup_steps=2, grad_accum_steps=2, shard="fsdp" in options),
        log_every=0,
        log_path=folder / "log.jsonl",
        evaluate=lambda model: evaluate_loss(model, held_out),
        eval_every=3,
        world=world,
        checkpoints=CheckpointConfig(folder / "points", every=4),
    )
    trainer.train(batches, resume="resume" in options)


def main(runs: list[str]) -> None:
    world = start()
    for run in runs:
        folder, *options = run.split(":")
        train(Path(folder), options, world)
    finish()


if __name__ == "__main__":
    main(sys.argv[1:])
