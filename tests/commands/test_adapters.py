"""`course merge` and `course adapters` on tiny models."""

import json
import math
import re

import pytest
import torch
from tiny_runs import course, loaded
from torch import nn

from course_lib.adapters import inject_butterfly, load_adapter, lora_layers, save_adapter
from course_lib.adapters.changes import LayerChange, layer_changes
from course_lib.adapters.files import describe
from course_lib.cli import main
from course_lib.finetuning.export import exported_config

# --- merge ---


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_model_loads_in_plain_transformers(base, adapter, tmp_path, capsys, dtype):
    folder = adapter("a")
    assert course("merge", "--base", base, "--adapter", folder, "--output", tmp_path / "m", "--dtype", dtype) == 0
    printed = capsys.readouterr().out
    expected = loaded(base)
    load_adapter(expected, folder)
    merged = loaded(tmp_path / "m")
    assert merged.dtype == getattr(torch, dtype)
    ids = torch.arange(20)[None]
    difference = (merged(ids).logits.float() - expected(ids).logits).abs().max() / expected(ids).logits.abs().max()
    assert difference < {"float32": 1e-5, "bfloat16": 0.05}[dtype]
    errors = dict(re.findall(r"^  (mean change|mean rounding|largest rounding).*?  +([\d.e+-]+)", printed, re.M))
    rounding = float(errors["mean rounding"])
    assert (
        rounding == 0 if dtype == "float32" else 0 < rounding < 2**-9 * 0.3
    )  # half a unit of 8 bits, mean |W| below 0.3
    assert float(errors["mean change"]) > 0.001
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(tmp_path / "m")("ab")["input_ids"]


def test_merge_takes_the_base_that_the_adapter_names(base, adapter, tmp_path, capsys):
    assert course("merge", "--adapter", adapter("a"), "--output", tmp_path / "m") == 0
    assert str(base) in capsys.readouterr().out


def test_merge_refuses(base, adapter, tmp_path, capsys):
    folder = adapter("a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    cases = {
        "not empty": ["--adapter", folder, "--output", tmp_path / "full"],
        "needs no base": ["--adapter", base, "--output", tmp_path / "m"],
        "There is no adapter": ["--adapter", tmp_path / "nowhere", "--output", tmp_path / "m"],
        "no such": ["--base", "no such model", "--adapter", folder, "--output", tmp_path / "m"],
    }
    capsys.readouterr()  # of the fixture: transformers shows its progress while the base is loaded
    for said, arguments in cases.items():
        assert course("merge", *arguments) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert not (tmp_path / "m").exists()


def test_a_butterfly_merges_too(base, tmp_path, capsys):
    model = loaded(base)
    inject_butterfly(model, ["q_proj"], stages=3)
    nn.init.normal_(model.model.layers[0].self_attn.q_proj.rotation.angles)
    save_adapter(model, tmp_path / "fly", str(base))
    assert course("merge", "--adapter", tmp_path / "fly", "--output", tmp_path / "m") == 0
    ids = torch.arange(20)[None]
    assert torch.allclose(loaded(tmp_path / "m")(ids).logits, model(ids).logits, atol=1e-5)


# --- list and info ---


def test_list_finds_all_and_names_the_damaged(adapter, tmp_path, capsys):
    first = adapter("a")
    adapter("deep/b", use_rslora=True)
    broken = tmp_path / "runs" / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{")
    assert course("adapters", "list", tmp_path / "runs") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert re.search(r"runs/a +lora rank 4 alpha 16 +q_proj v_proj +\S+base +1,024 ", lines[1])  # 2 * 2 * 4 * (32 + 32)
    assert lines[1].endswith(f"{(first / 'adapter_model.safetensors').stat().st_size:,}")
    assert "rslora" in lines[2]
    assert lines[3].startswith("damaged: ")
    assert "broken" in lines[3]


def test_list_refuses_a_folder_without_any(tmp_path, capsys):
    assert course("adapters", "list", tmp_path) == 2
    assert "no adapter below" in capsys.readouterr().err
    assert course("adapters", "list", tmp_path / "nowhere") == 2


def test_info_gives_the_size_of_each_layers_change(base, adapter, capsys):
    folder = adapter("a")
    assert course("adapters", "info", folder, "--layers") == 0
    printed = capsys.readouterr().out
    assert "lora rank 4 alpha 16, 1,024 parameters" in printed
    model = loaded(base)
    load_adapter(model, folder)
    for name, layer in lora_layers(model):
        assert f"  {name}: 32 x 32, +256, change {layer.delta().norm().item():.4g}\n" in printed


def test_info_groups_what_is_alike_and_explains_the_change(base, adapter, capsys):
    """A line for the layers that differ by their block's number alone, as the header of `course train` has it."""
    folder = adapter("a")
    assert course("adapters", "info", folder) == 0
    printed = capsys.readouterr().out
    model = loaded(base)
    load_adapter(model, folder)
    sizes = {name: layer.delta().norm().item() for name, layer in lora_layers(model)}
    for which in ("q_proj", "v_proj"):
        low, high = sorted(size for name, size in sizes.items() if name.endswith(which))
        expected = f"change {low:.4g} to {high:.4g}, median {(low + high) / 2:.4g}"
        assert f"  model.layers.*.self_attn.{which}, 2 layers: 32 x 32, +256 each, {expected}\n" in printed
    assert "change: how much the adapter adds to the weight of a layer, as the Frobenius norm" in printed
    assert len(printed.splitlines()) < 10


def test_info_orders_blocks_by_their_number():
    tensors = {f"base_model.model.h.{n}.x.lora_{which}.weight": torch.ones(1, 1) for n in (10, 2, 1) for which in "AB"}
    assert list(layer_changes({}, tensors)) == ["h.1.x", "h.2.x", "h.10.x"]


def test_a_butterflys_angles_are_described(base, tmp_path, capsys):
    angles = torch.tensor([0.3, -0.3])
    changes = layer_changes({"peft_type": "BUTTERFLY"}, {"base_model.model.h.0.c_attn.butterfly.angles": angles})
    assert changes == {"h.0.c_attn": LayerChange("", 2, pytest.approx(0.3))}
    assert describe({"peft_type": "BUTTERFLY", "stages": 8, "block_size": 256}) == "butterfly 8 stages block 256"
    model = loaded(base)
    inject_butterfly(model, ["q_proj"], stages=3)
    save_adapter(model, tmp_path / "fly", str(base))
    assert course("adapters", "info", tmp_path / "fly") == 0
    printed = capsys.readouterr().out
    assert "model.layers.*.self_attn.q_proj, 2 layers: +48 angles each, change 0 to 0, median 0" in printed
    assert "change: how far the rotation turns" in printed


def test_an_adapter_that_peft_saved(base, tmp_path, capsys):
    from peft import LoraConfig, get_peft_model

    peft = get_peft_model(loaded(base), LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    peft.save_pretrained(tmp_path / "p")
    assert course("adapters", "info", tmp_path / "p") == 0
    assert "lora rank 2 alpha 6, 256 parameters" in capsys.readouterr().out
    assert course("compare", "--adapter", tmp_path / "p", "--base", base, "--samples", 1, "--max-new-tokens", 3) == 0


@pytest.mark.parametrize(
    ("targets", "transposed"), [(["c_proj"], True), (["h.0.attn.c_attn"], True), (["q_proj"], False)]
)
def test_an_exported_lora_on_gpt2_says_that_the_weights_are_transposed(tmp_path, targets, transposed):
    """PEFT's fan_in_fan_out: the layers of GPT-2 are Conv1D, with weights (in, out)."""
    run = {"mode": "lora", "model": "gpt2", "rank": 4, "alpha": 8, "lora_dropout": 0, "use_rslora": False}
    run["target_modules"] = targets
    assert exported_config(run, tmp_path)["fan_in_fan_out"] is transposed


@pytest.mark.parametrize("mode", ["lora", "butterfly"])
def test_an_exported_checkpoint_is_the_adapter_of_that_step(base, tmp_path, capsys, mode):
    """The last checkpoint, exported, equals the adapter that the run saved; an earlier one does not."""
    (tmp_path / "notes.txt").write_text("The keeper lit the lamp and noted the wind. " * 40)
    options = ["--steps", 4, "--accumulate", 1, "--checkpoint-every", 2, "--seq-len", 16, "--lr", 1e-2]
    command = ["train", "--mode", mode, "--model", base, "--dataset", tmp_path / "notes.txt", *options]
    assert course(*command, "--output", tmp_path / "run") == 0
    for step, same in [(4, True), (2, False)]:
        folder = tmp_path / f"step{step}"
        checkpoint = tmp_path / "run" / "checkpoints" / f"step_{step:06d}"
        assert course("adapters", "export", checkpoint, "--output", folder) == 0
        logits = []
        for adapter in (folder, tmp_path / "run"):
            model = loaded(base)
            load_adapter(model, adapter)
            logits.append(model(torch.arange(20)[None]).logits)
        assert torch.equal(*logits) is same
    assert course("adapters", "export", tmp_path / "run", "--output", tmp_path / "x") == 2
    ours, theirs = (json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("step4", "run"))
    assert ours == theirs


def test_the_shown_norm_is_the_formulas():
    tensors = {"base_model.model.x.lora_A.weight": torch.eye(2), "base_model.model.x.lora_B.weight": 3 * torch.eye(2)}
    change = layer_changes({"peft_type": "LORA", "r": 2, "lora_alpha": 4}, tensors)["x"]
    assert change == LayerChange("2 x 2", 8, pytest.approx(2 * 3 * math.sqrt(2)))


@pytest.mark.parametrize("command", ["train", "prepare", "merge", "compare"])
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert len(re.findall(rf"^  course (data )?{command} ", shown, re.M)) >= 2
