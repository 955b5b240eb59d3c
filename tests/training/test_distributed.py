"""Two gloo processes under torchrun against one process at the same global batch."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from course_lib.data import IGNORE
from course_lib.training import read_log
from course_lib.training.distributed import World

PROGRAM = Path(__file__).with_name("distributed_run.py")
WHY = "float32: gradients are added in another order; 1e-5 is far below what changes a run"
ADAPTERS = ("full", "lora", "bfloat16")
KINDS = [(adapter, kind) for adapter in ADAPTERS for kind in ("ddp", "fsdp")]


def together(runs):
    """All runs, one after another, in two processes: starting them takes longer than a run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(PROGRAM)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *runs], capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def alone(runs):
    """The same in this process."""
    runpy.run_path(str(PROGRAM))["main"](runs)


def losses(folder):
    return [record.loss for record in read_log(folder / "log.jsonl")]


def saved_weights(checkpoint):
    """The trained weights in float32: the masters, where the weights have 16 bits."""
    optimizer = load_file(checkpoint / "optimizer.safetensors")
    masters = {name.removesuffix("/master"): value for name, value in optimizer.items() if name.endswith("/master")}
    found = load_file(checkpoint / "weights.safetensors") | masters
    assert {value.dtype for value in found.values()} == {torch.float32}
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """By adapter and kind, the losses of four runs: alone, together, and each of them cut to half and resumed as the
    other; and of the first two the weights of step 4."""
    folder = tmp_path_factory.mktemp("distributed")
    places = {(adapter, kind): folder / f"{adapter}_{kind}" for adapter, kind in KINDS}
    alone([f"{folder}/{adapter}:{adapter}" for adapter in ADAPTERS])
    together([f"{place}/together:{adapter}:{kind}" for (adapter, kind), place in places.items()])
    found = {}
    for (adapter, _), place in places.items():
        shutil.copytree(folder / adapter, place / "alone")
        sides = {name: place / name for name in ("alone", "together")}
        weights = [saved_weights(side / "points" / "step_000004") for side in sides.values()]
        found[place] = {name: losses(side) for name, side in sides.items()} | {"weights": weights}
        for side in sides.values():
            shutil.rmtree(side / "points" / "step_000008")
    together([f"{place}/alone:{adapter}:{kind}:resume" for (adapter, kind), place in places.items()])
    alone([f"{place}/together:{adapter}:resume" for (adapter, _), place in places.items()])
    return {
        key: found[place] | {"crossed": losses(place / "alone"), "back": losses(place / "together")}
        for key, place in places.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "kind"), [each for each in KINDS if each[0] != "bfloat16"])
def test_two_processes_give_the_losses_of_one(runs, parity, adapter, kind):
    """Eight steps with evaluations and checkpoints; then the checkpoint of each run is resumed as the other kind."""
    run = runs[adapter, kind]
    assert len(run["together"]) == len(run["alone"]) == 8
    what = f"{kind.upper()} on two processes, {adapter}, 8 steps"
    parity.close(what, "one process, same global batch", run["together"], run["alone"], 1e-5, WHY)
    theirs, ours = run["weights"]
    assert ours.keys() == theirs.keys()
    apart = [((ours[name] - theirs[name]).norm() / theirs[name].norm()).item() for name in theirs]
    assert max(apart) < 1e-4  # not element by element: where a gradient is about 0, its sign decides Adam's step
    np.testing.assert_allclose(run["crossed"], run["alone"], rtol=1e-5)
    np.testing.assert_allclose(run["back"], run["alone"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_master_weights_on_two_processes(runs, parity, kind):
    """Gradients are added in bfloat16, which rounds differently in one process and in two; the masters stay near."""
    run = runs["bfloat16", kind]
    what, why = f"{kind.upper()} on two processes, bfloat16 with masters, 8 steps", "bfloat16 gradients keep 8 bits"
    parity.close(what, "one process, same global batch", run["together"], run["alone"], 1e-2, why)
    theirs, ours = run["weights"]
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(run["crossed"], run["alone"], rtol=1e-2)
    np.testing.assert_allclose(run["back"], run["alone"], rtol=1e-2)


def test_rows_are_shared_out():
    ids = torch.arange(10).reshape(5, 2)
    batch = {"input_ids": ids, "labels": ids}
    assert World(0, 2).rows(batch)["input_ids"].tolist() == [[0, 1], [4, 5], [8, 9]]
    assert World(1, 2).rows(batch)["input_ids"].tolist() == [[2, 3], [6, 7]]
    assert World(4, 6).rows(batch)["labels"].tolist() == [[8, 9]]
    idle = World(5, 6).rows(batch)
    assert (idle["input_ids"].tolist(), idle["labels"].tolist()) == ([[0, 1]], [[IGNORE, IGNORE]])
