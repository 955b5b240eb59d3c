"""A run for tests/training/test_distributed.py, alone or under torchrun: distributed_run.py LOG [fsdp]"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from course_lib.data import pad
from course_lib.training import Trainer
from course_lib.training.distributed import finish, start


def main(log: Path, shard: bool) -> None:
    torch.manual_seed(0)
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=97, **shape))
    rng = np.random.default_rng(0)

    def batch():
        examples = [rng.integers(3, 97, n).tolist() for n in rng.integers(2, 20, 4)]  # unequal targets a process
        return pad([{"input_ids": ids, "labels": ids} for ids in examples], 2)

    world = start()
    trainer = Trainer(model, lr=1e-2, warmup=2, accumulate=2, log_every=0, log_path=log, world=world, shard=shard)
    trainer.train([batch() for _ in range(16)])
    finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]), "fsdp" in sys.argv)
