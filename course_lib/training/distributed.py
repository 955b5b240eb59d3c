"""The same Trainer on several processes: `torchrun` starts them, each takes its rows of every batch.

Data parallel (Li et al. 2020, arXiv:2006.15704): every process holds the model, and gradients are averaged before the
step. For a model that one device cannot hold, FSDP2 (`fully_shard`) shares out parameters and moments too.
"""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from course_lib.errors import CourseError


@dataclass(frozen=True)
class World:
    """rank: this process's number; size: how many there are (1: an ordinary run)."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def rows(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """This process's share of a batch: rows rank, rank + size, ... CourseError where some would get none."""
        count = len(batch["input_ids"])
        if count < self.size:
            raise CourseError(f"A batch of {count} rows cannot be shared out to {self.size} processes.")
        return {key: value[self.rank :: self.size] for key, value in batch.items()}

    def total(self, number: float) -> float:
        """The sum of `number` over all processes."""
        if self.size == 1:
            return number
        tensor = torch.tensor(number, dtype=torch.float64)
        if dist.get_backend() == "nccl":
            tensor = tensor.cuda()
        dist.all_reduce(tensor)
        return tensor.item()

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


def start() -> World:
    """Join the processes that `torchrun` started (gloo on CPUs, NCCL on GPUs); without it a world of one."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        return World()
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend)
        if backend == "nccl":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    return World(dist.get_rank(), size)


def finish() -> None:
    """Leave the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def share(model: nn.Module, world: World, shard: bool = False) -> nn.Module:
    """The model whose backward pass averages gradients over the processes; the model itself in a world of one.

    shard: FSDP2 instead of DDP, each block of `model.model.layers` sharded by itself, then the rest.
    """
    if world.size == 1:
        return model
    if not shard:
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.fsdp import fully_shard

    for layer in getattr(getattr(model, "model", model), "layers", []):
        fully_shard(layer)
    return fully_shard(model)
