"""The same Trainer on several processes: `torchrun` starts them, each takes its rows of every batch.

    torchrun --nproc-per-node 2 -m course_lib.cli train --mode lora --dataset notes.txt --output runs/notes

Data parallel (Li et al. 2020, arXiv:2006.15704): every process holds the model, and gradients are averaged before the
step. For a model that one device cannot hold, FSDP2 (`fully_shard`; Zhao et al. 2023, arXiv:2304.11277) shares out
weights, gradients and moments too.

Two processes give the losses of one at the same global batch to 1e-5 (tests/training/test_distributed.py). Left out:
tensor and pipeline parallelism, and uneven machines.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from course_lib.data.masking import IGNORE
from course_lib.errors import CourseError
from course_lib.models.devices import device_of


@dataclass(frozen=True)
class World:
    """This process among all that train together.

    Attributes:
        rank: this process's number, from 0.
        size: how many processes there are; 1 is an ordinary run.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def rows(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """This process's share of a batch: rows rank, rank + size, rank + 2 size, ...

        Where no row is left, the share is the first row with every label masked: it adds nothing to the loss, but
        every process has to take part in every step.

        Args:
            batch: tensors of (batch, ...), "labels" among them.

        Returns:
            The same keys with tensors of (about batch / size, ...).
        """
        mine = {key: value[self.rank :: self.size] for key, value in batch.items()}
        if len(mine["labels"]):
            return mine
        first = {key: value[:1] for key, value in batch.items()}  # (1, ...)
        return first | {"labels": torch.full_like(first["labels"], IGNORE)}

    def total(self, number: float) -> float:
        """The sum of `number` over all processes."""
        if self.size == 1:
            return number
        tensor = torch.tensor(number, dtype=torch.float64)
        if dist.get_backend() == "nccl":  # NCCL sends only what lies on a GPU
            tensor = tensor.cuda()
        dist.all_reduce(tensor)
        return tensor.item()

    def gather(self, value: Any) -> list:
        """`value` of every process, in the order of their ranks."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


def start(device: str = "auto") -> World:
    """Join the processes that `torchrun` started. Without `torchrun` the world has one process.

    Args:
        device: "cpu" takes the backend gloo. Otherwise NCCL is used where torch sees a GPU, one for each process.

    Returns:
        This process's place among them.

    Raises:
        CourseError: there are more processes than GPUs.
    """
    size, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    if size == 1:
        return World()
    gpu = torch.cuda.is_available() and device != "cpu"
    if gpu and local >= torch.cuda.device_count():
        raise CourseError(f"There are more processes than GPUs ({torch.cuda.device_count()}): lower --nproc-per-node.")
    if gpu:
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if gpu else "gloo")
    return World(dist.get_rank(), size)


def finish() -> None:
    """Leave the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def wrap_distributed(model: nn.Module, world: World, shard: bool = False) -> nn.Module:
    """Wrap the model so that its backward pass averages gradients over the processes.

    FSDP2 shards each block by itself, then the rest. Every process keeps its part of each parameter and gathers a block
    while it computes it, so all of them have to call the model equally often, in an evaluation too. The parameters
    become DTensors, which `full_tensor` gathers. `Checkpoints` does so: its files are those of an ordinary run, and
    either kind of run can resume the other's. ``save_adapter`` and ``save_pretrained`` do not gather: load the
    checkpoint into a model that is not sharded first.

    Args:
        model: on this process's device. FSDP2 changes it in place.
        world: this process among all.
        shard: share out weights, gradients and moments (FSDP2) instead of copying them to every process (DDP).

    Returns:
        The module to call in training; in a world of one the model itself.
    """
    if world.size == 1:
        return model
    if not shard:
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device_of(model).type, (world.size,))
    for block in next((module for module in model.modules() if isinstance(module, nn.ModuleList)), []):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)  # in place
    return model


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Put a sharded tensor together; any other tensor is returned as it is. Every process has to call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def is_sharded(model: nn.Module) -> bool:
    """Whether each process holds only a part of the model, so that all of them have to call it equally often."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def gathered_state(model: nn.Module, world: World) -> dict[str, torch.Tensor]:
    """The whole state of a sharded model on the first process, in its memory and not the GPU's; {} on the others.

    Every process has to call this.

    Args:
        model: sharded.
        world: this process among all.

    Returns:
        Tensors by the names that the model has without sharding.
    """
    state = {}
    for name, value in model.state_dict().items():
        whole = full_tensor(value.detach())  # one after another: no more than one whole tensor is on the device
        if world.is_main:
            state[name] = whole.cpu()
    return state


def distribute_like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Put a whole tensor where a parameter is: the inverse of `full_tensor`.

    Args:
        value: a whole tensor of the parameter's full shape.
        parameter: the pattern for device and sharding.

    Returns:
        `value` on the parameter's device, as a DTensor where the parameter is sharded.
    """
    value = value.to(parameter.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)
