"""One of two processes of test_distributed.py: `two_processes.py FOLDER RANK` writes FOLDER/RANK.json."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

INPUTS = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0], [0.5, 4.0], [2.0, 2.0]])]  # 1 and 3 "tokens"


def gradient(loss_of, rank, around_forward=False, around_backward=False):
    """The gradient's first entry after one backward pass of a linear layer under DDP."""
    layer = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(layer.weight)
    model = DistributedDataParallel(layer)
    if around_forward:
        with model.no_sync():
            loss_of(model(INPUTS[rank]) ** 2).backward()
    else:
        loss = loss_of(model(INPUTS[rank]) ** 2)
        if around_backward:
            with model.no_sync():
                loss.backward()
        else:
            loss.backward()
    return layer.weight.grad[0, 0].item()


def main(folder, rank):
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    weight = torch.ones(1, 2, requires_grad=True)
    ((torch.cat(INPUTS) @ weight.T) ** 2).mean().backward()
    tokens = sum(len(inputs) for inputs in INPUTS)
    seen = {
        "one_process": weight.grad[0, 0].item(),
        "mean_of_means": gradient(torch.mean, rank),
        "by_tokens": gradient(lambda losses: losses.sum() * 2 / tokens, rank),
        "no_sync": gradient(torch.mean, rank, around_forward=True),
        "no_sync_backward": gradient(torch.mean, rank, around_backward=True),
    }
    torch.manual_seed(0)
    whole = torch.randn(4, 4)
    total = distribute_tensor(whole, init_device_mesh("cpu", (2,)), [Shard(0)]).sum()
    seen |= {"whole": whole.sum().item(), "item": total.item(), "full": total.full_tensor().item()}
    Path(folder, f"{rank}.json").write_text(json.dumps(seen))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
