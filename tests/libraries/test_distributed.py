"""What torch.distributed does that changes a training run and raises nothing: two processes over gloo, once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes saw."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, str(WORKER), str(folder)]
    processes = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    said = [process.communicate(timeout=300)[1] for process in processes]
    paths = [folder / f"{rank}.json" for rank in range(2)]
    assert all(path.is_file() for path in paths), "\n".join(said)
    return [json.loads(path.read_text()) for path in paths]


@pytest.mark.library(
    package="torch.distributed",
    happens="DDP averages over processes, not over tokens",
    expected="Several processes give the gradient that one process with the whole batch gives.",
    instead="Divide the sum of the losses by the tokens of all processes and multiply by their number, "
    "as `course_lib.training.distributed` does. With unequal texts the mean of means is another gradient.",
    chapter="02_full_finetuning",
)
def test_a_mean_of_means(ranks):
    for rank in ranks:
        assert rank["mean_of_means"] != pytest.approx(rank["one_process"], rel=1e-2)
        assert rank["by_tokens"] == pytest.approx(rank["one_process"], rel=1e-5)


@pytest.mark.library(
    package="torch.distributed",
    happens="DDP's `no_sync()` acts at the forward pass: around the backward pass alone it does nothing",
    expected="Gradients are exchanged in the backward pass, so that is what has to stand inside `no_sync()`.",
    instead="Put forward and backward inside the block. Otherwise every micro-batch pays for the exchange.",
    chapter="02_full_finetuning",
)
def test_no_sync_around_the_backward_pass(ranks):
    around_both, around_backward = ([rank[name] for rank in ranks] for name in ("no_sync", "no_sync_backward"))
    assert around_both[0] != pytest.approx(around_both[1], rel=1e-3)
    assert around_backward[0] == pytest.approx(around_backward[1], rel=1e-6)


@pytest.mark.library(
    package="torch.distributed",
    happens="`.item()` of a reduced DTensor gives each process the sum of its own share",
    expected="`weight.sum().item()` of a sharded weight is the sum of the whole weight.",
    instead="Call `.full_tensor()` before `.item()`, as `course_lib.training.distributed` does.",
    chapter="02_full_finetuning",
)
def test_item_is_this_ranks_share(ranks):
    whole = ranks[0]["whole"]
    assert ranks[0]["item"] + ranks[1]["item"] == pytest.approx(whole, rel=1e-5)
    assert all(rank["item"] != pytest.approx(whole, rel=1e-3) for rank in ranks)
    assert all(rank["full"] == pytest.approx(whole, rel=1e-5) for rank in ranks)
