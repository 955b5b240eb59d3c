"""Weights of 16 bits: what AdamW loses without float32 masters, and that ours loses none of it."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from course_lib.adapters import inject_butterfly, inject_lora
from course_lib.training import CheckpointConfig, MasterWeightAdamW, Trainer, TrainingConfig
from course_lib.training.master_weights import make_adamw, round_weights


def weights(*values, dtype=torch.bfloat16):
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def feed(optimizer, parameter, gradients):
    """A step for each gradient."""
    for gradient in gradients:
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()


# --- worked examples ---


def test_a_weight_of_one_never_moves_without_a_master():
    """With gradients of one sign a step of AdamW is lr: 1 - 0.001 is rounded to 1, whose neighbour is 0.996."""
    plain, ours = weights(1.0), weights(1.0)
    feed(torch.optim.AdamW([plain], lr=1e-3, weight_decay=0.0), plain, [1.0] * 100)
    optimizer = MasterWeightAdamW([ours], lr=1e-3)
    feed(optimizer, ours, [1.0] * 100)
    assert plain.item() == 1.0
    assert optimizer.state[ours]["master"].item() == pytest.approx(0.9, abs=1e-5)  # 100 steps of 0.001
    assert ours.item() == torch.tensor(0.9).bfloat16().item()
    assert ours.dtype == torch.bfloat16


def test_the_second_moment_rises_and_falls():
    """One gradient of 10 among zeros. In bfloat16 0.999 v is rounded to v, so v stays at its peak for ever."""
    plain, ours = weights(1.0), weights(1.0)
    optimizers = torch.optim.AdamW([plain], lr=1e-3), MasterWeightAdamW([ours], lr=1e-3)
    moments = []
    for optimizer, parameter in zip(optimizers, (plain, ours), strict=True):
        feed(optimizer, parameter, [10.0])
        peak = optimizer.state[parameter]["exp_avg_sq"].item()
        feed(optimizer, parameter, [0.0] * 1000)
        moments.append((peak, optimizer.state[parameter]["exp_avg_sq"].item()))
    assert moments[0][0] == moments[0][1] == pytest.approx(0.1, rel=0.01)
    assert moments[1][1] == pytest.approx(moments[1][0] * 0.999**1000, rel=1e-3)


def test_masters_take_the_steps_of_float32():
    """The masters are, bit for bit, the weights of torch's AdamW in float32 with the same gradients."""
    rng = torch.Generator().manual_seed(0)
    start = torch.randn(7, 5, generator=rng).bfloat16()
    full, ours = nn.Parameter(start.float()), nn.Parameter(start.clone())
    settings = {"lr": 3e-3, "weight_decay": 0.1}
    reference = torch.optim.AdamW([full], fused=True, **settings)
    optimizer = MasterWeightAdamW([ours], **settings)
    for _ in range(20):
        ours.grad = torch.randn(7, 5, generator=rng).bfloat16()
        full.grad = ours.grad.float()
        reference.step()
        optimizer.step()
    assert torch.equal(optimizer.state[ours]["master"], full.detach())
    assert torch.equal(ours.detach(), full.detach().bfloat16())


def test_weights_with_exact_masters_move_as_far_as_those():
    """Three steps of 0.001 where bfloat16's numbers are 0.0078 apart: no weight whose master began at itself moves. Of
    those whose masters began anywhere near, some move by 0.0078, and on average by 0.003."""
    exact = 1 + torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    rounded = nn.Parameter(exact.bfloat16())
    model = nn.ParameterList([nn.Parameter(exact.clone())])
    round_weights(model, torch.bfloat16)
    (ours,) = model
    assert torch.equal(ours.detach(), rounded.detach())
    moved = []
    for parameter in (rounded, ours):
        before = parameter.detach().double()
        feed(MasterWeightAdamW([parameter], lr=1e-3), parameter, [-1.0] * 3)
        moved.append((parameter.detach().double() - before).mean().item())
    assert moved[0] == 0
    assert moved[1] == pytest.approx(0.003, rel=0.05)
    assert not ours.__dict__, "the exact weights are not kept twice"


def test_groups_keep_their_settings_and_float32_weights_are_their_own_masters():
    decayed, plain, wide = weights(1.0), weights(1.0), weights(1.0, dtype=torch.float32)
    groups = [{"params": [decayed, wide], "weight_decay": 0.5}, {"params": [plain]}]
    optimizer = MasterWeightAdamW(groups, lr=0.1)
    for parameter in (decayed, plain, wide):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert (wide.item(), plain.item()) == (pytest.approx(0.95), 1.0)  # 1 - lr * weight_decay
    assert optimizer.state[decayed]["master"].item() == pytest.approx(0.95)
    assert "master" not in optimizer.state[wide]


def test_state_dict_brings_the_masters_back_in_float32():
    """torch's own load_state_dict would round them to bfloat16."""
    first = weights(1.0, -0.3)
    optimizer = MasterWeightAdamW([first], lr=1e-3)
    feed(optimizer, first, [1.0] * 3)
    second = nn.Parameter(first.detach().clone())
    restored = MasterWeightAdamW([second], lr=1e-3)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for name, value in optimizer.state[first].items():
        assert value.dtype == torch.float32
        assert torch.equal(restored.state[second][name], value), name
    for each, parameter in ((optimizer, first), (restored, second)):
        feed(each, parameter, [0.5, -2.0])
    assert torch.equal(restored.state[second]["master"], optimizer.state[first]["master"])


def test_only_weights_of_16_bits_get_masters(tiny_llama):
    assert type(make_adamw([weights(1.0, dtype=torch.float32)], 1e-3, 0.0)) is torch.optim.AdamW
    for dtype in (torch.bfloat16, torch.float16):
        assert type(make_adamw([weights(1.0, dtype=dtype)], 1e-3, 0.0)) is MasterWeightAdamW
    for inject in (inject_lora, inject_butterfly):  # adapters are float32 on whatever base, so they need none
        model = copy.deepcopy(tiny_llama).bfloat16()
        inject(model, ["q_proj"], 2)
        trainer = Trainer(model, TrainingConfig(lr=1e-3), log_every=0)
        assert {parameter.dtype for parameter in trainer.parameters} == {torch.float32}
        assert type(trainer.optimizer) is torch.optim.AdamW


# --- whole runs ---


def batches(steps):
    return [np.tile(np.arange(16), (2, 1)) for _ in range(steps)]


def losses(records):
    return np.array([record.loss for record in records])


def run(start, steps=100, lr=5e-5, plain=False, **settings):
    """(losses, the share of the weights that are bit for bit what they were) of a run on a copy of `start`."""
    model = copy.deepcopy(start)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer = Trainer(model, TrainingConfig(lr=lr, schedule="constant", **settings), log_every=0)
    if plain:
        trainer.optimizer = torch.optim.AdamW(trainer.parameters, lr=lr, weight_decay=0.0)
    found = losses(trainer.train(batches(steps)))
    same = [(old == new).sum().item() for old, new in zip(before, model.parameters(), strict=True)]
    return found, sum(same) / sum(parameter.numel() for parameter in model.parameters())


def test_the_run_learns_like_autocast(tiny_llama, parity):
    """100 steps from the same weights. autocast rounds activations as often as bfloat16 weights do, so 0.3 % is what
    two such runs may differ by (measured: 0.03 %; float32 differs from autocast by 0.05 %, plain bfloat16 by 3.6 %)."""
    start = tiny_llama.bfloat16()
    masters, unmoved = run(start)
    autocast, unmoved_there = run(copy.deepcopy(start).float(), autocast="bfloat16")
    plain, stuck = run(start, plain=True)
    why = "bfloat16 keeps 8 bits, and the two round different tensors"
    parity.close(
        "bfloat16 weights with float32 masters, 100 steps", "float32 weights, autocast", masters, autocast, 3e-3, why
    )
    assert abs(plain / autocast - 1).max() > 0.03
    # 11 % of the weights are embeddings of tokens that do not occur: their gradient is zero.
    assert unmoved < unmoved_there + 0.01
    assert stuck > unmoved + 0.2


class Stopped(Exception):
    pass


class Breaking(list):
    """Batches of which number 5 cannot be had."""

    def __getitem__(self, index):
        if index == 5:
            raise Stopped
        return super().__getitem__(index)


def trained(start, folder, rows, resume=False):
    model = copy.deepcopy(start)
    points = CheckpointConfig(folder, every=2)
    trainer = Trainer(
        model,
        TrainingConfig(lr=1e-3, weight_decay=0.01),
        checkpoints=points,
        log_every=0,
        log_path=folder / "log.jsonl",
    )
    return losses(trainer.train(rows, resume=resume)), model


def test_a_resumed_run_is_the_uninterrupted_one(tiny_llama, tmp_path):
    start = tiny_llama.bfloat16()
    whole, model = trained(start, tmp_path / "whole", batches(9))
    with pytest.raises(Stopped):
        trained(start, tmp_path / "cut", Breaking(batches(9)))
    resumed, twin = trained(start, tmp_path / "cut", batches(9), resume=True)
    assert resumed.tolist() == whole.tolist()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    saved = load_file(tmp_path / "cut" / "step_000008" / "optimizer.safetensors")
    assert saved["lm_head.weight/master"].dtype == saved["lm_head.weight/exp_avg_sq"].dtype == torch.float32
    rounded = load_file(tmp_path / "cut" / "step_000008" / "weights.safetensors")["lm_head.weight"]
    assert torch.equal(rounded, saved["lm_head.weight/master"].bfloat16())


def test_a_checkpoint_without_masters_goes_on_with_them(tiny_llama, tmp_path):
    """Versions before this one wrote moments in bfloat16 and no masters."""
    start = tiny_llama.bfloat16()
    trained(start, tmp_path, batches(4))
    path = tmp_path / "step_000004" / "optimizer.safetensors"
    old = {name: value for name, value in load_file(path).items() if not name.endswith("/master")}
    old = {name: value.bfloat16() if "/exp_avg" in name else value for name, value in old.items()}
    save_file(old, path)
    state = path.with_name("state.json")
    state.write_text(json.dumps(json.loads(state.read_text()) | {"moments": len(old)}))
    resumed, _ = trained(start, tmp_path, batches(8), resume=True)
    assert len(resumed) == 8
    assert np.isfinite(resumed).all()
    saved = load_file(tmp_path / "step_000008" / "optimizer.safetensors")
    assert {value.dtype for name, value in saved.items() if "/" in name} == {torch.float32}
