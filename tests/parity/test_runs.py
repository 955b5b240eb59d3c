"""Reading runs and comparing them, on runs made by hand."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import save_file

from course_lib.cli import main
from course_lib.errors import CourseError
from course_lib.parity.compare import compare_runs
from course_lib.parity.runs import plain_name, read_run

PEFT = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


def write_log(path, losses, start=0, **keys):
    """A JSONL log; keys: what else stands in every line."""
    names = {"step": keys.pop("step", "step"), "loss": keys.pop("loss", "loss")}
    lines = [json.dumps({names["step"]: n, names["loss"]: loss} | keys) for n, loss in enumerate(losses, start)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def adapter(seed=0, scale=0.0):
    """A and B of one layer, `scale` away from those of the seed."""
    torch.manual_seed(seed)
    tensors = {"A": torch.randn(4, 6), "B": torch.randn(5, 4)}
    return {name: tensor * (1 + scale) for name, tensor in tensors.items()}


def save(path, tensors, pattern=PEFT):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({pattern.format(name): tensor for name, tensor in tensors.items()}, path)


@pytest.fixture
def compare(tmp_path, capsys):
    """`course align compare` in this process: (exit status, what it printed)."""

    def command(a, b, *options):
        status = main(["align", "compare", str(a), str(b), *map(str, options)])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return command


# --- what is read -----------------------------------------------------------------------------------------------------


def test_the_seeds_log_line(tmp_path):
    log = tmp_path / "cpp.log"
    log.write_text(
        "loading gpt2 ...\nstep 10 | loss: 3.89 | lr: 6.6e-05 | norm 0.89\n"
        "Step 20/100 | train_loss=3.5, eval_loss 9.9\nstep 30 | eval_loss 3.2\niter: 40 loss: -nan lr 1E-5\n"
    )
    run = read_run(log)
    assert run.rates == {10: 6.6e-05, 40: 1e-5}
    assert (run.losses[10], run.losses[20]) == (3.89, 3.5)
    assert math.isnan(run.losses[40])
    assert set(run.losses) == {10, 20, 40}


def test_our_trainers_printed_lines_are_a_log(tmp_path):
    from course_lib.training import StepRecord

    records = [StepRecord(step, 4.0 - step / 100, 1e-4, 1.0, 0.1, 64, eval_loss=9.0) for step in range(0, 30, 10)]
    (tmp_path / "run.log").write_text("".join(record.line() + "\n" for record in records))
    assert read_run(tmp_path / "run.log").losses == {0: 4.0, 10: 3.9, 20: 3.8}


@pytest.mark.parametrize(
    ("step", "loss"), [("step", "loss"), ("global_step", "train_loss"), ("Iteration", "train/loss")]
)
def test_common_names_in_json_lines(tmp_path, step, loss):
    log = write_log(tmp_path / "a.jsonl", [3.0, 2.5], start=1, step=step, loss=loss, learning_rate=1e-3)
    run = read_run(log)
    assert (run.losses, run.rates) == ({1: 3.0, 2: 2.5}, {1: 1e-3, 2: 1e-3})


def test_lines_without_a_loss_are_passed_over_and_a_cut_last_line_too(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"event": "start"}\n\n{"step": 0, "loss": 3}\n{"step": 1, "eval": 2}\n{"step": 2, "lo'
    )
    assert read_run(tmp_path / "a.jsonl").losses == {0: 3.0}


def test_of_a_repeated_step_the_last_counts(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"step": 0, "loss": 3}\n{"step": 1, "loss": 2}\n{"step": 1, "loss": 1}\n')
    run = read_run(tmp_path / "a.jsonl")
    assert run.losses == {0: 3.0, 1: 1.0}
    assert "1 steps more than once" in run.notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"step": 0, "loss": 3}\nnonsense\n{"step": 1, "loss": 2}\n', "line 2"),
        (b'{"step": 0, "loss": true}\n{"step": 1, "loss": 2}\n', "line 1"),
        (b'{"step": 0.5, "loss": 3}\n', "whole number"),
        (b'{"step": Infinity, "loss": 3}\n', "whole number"),
        (b'{"step": 1' + b"0" * 400 + b', "loss": 3}\n{}\n', "line 1"),
        (b'{"step": ' + b"[" * 100000 + b"\n{}\n", "line 1"),
        (b"nothing to see\n", "no line with a step and a loss"),
        (b"", "no line with a step and a loss"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_damaged_logs_are_named(tmp_path, content, message):
    (tmp_path / "bad.jsonl").write_bytes(content)
    with pytest.raises(CourseError, match=message):
        read_run(tmp_path / "bad.jsonl")


def test_folders_that_are_no_run(tmp_path):
    with pytest.raises(CourseError, match="holds no run"):
        read_run(tmp_path)
    with pytest.raises(CourseError, match="There is no run"):
        read_run(tmp_path / "absent")
    write_log(tmp_path / "one.jsonl", [1.0])
    write_log(tmp_path / "two.jsonl", [1.0])
    with pytest.raises(CourseError, match="several"):
        read_run(tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CourseError, match="not a complete .safetensors"):
        read_run(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("base_model.model.model.layers.0.q_proj.lora_A.weight", "layers.0.q_proj.lora_A.weight"),
        ("base_model.model.model.layers.0.q_proj.lora_A.default.weight", "layers.0.q_proj.lora_A.weight"),
        ("layers.0.q_proj.lora_B", "layers.0.q_proj.lora_B.weight"),
        ("transformer.h.0.attn.c_attn.weight", "h.0.attn.c_attn.weight"),
        ("lm_head.weight", "lm_head.weight"),
        ("model", "model"),
    ],
)
def test_plain_names(name, plain):
    assert plain_name(name) == plain


# --- what is compared ---------------------------------------------------------------------------------------------


def test_the_same_run_is_within_any_tolerance(tmp_path, compare):
    for name in ("a", "b"):
        write_log(tmp_path / name / "loss.jsonl", [3.0, 2.5, 2.0])
        save(tmp_path / name / "adapter_model.safetensors", adapter())
        save(tmp_path / name / "gradients" / "step_000000.safetensors", adapter(1))
    status, printed = compare(tmp_path / "a", tmp_path / "b", "--tolerance", 0)
    assert status == 0
    assert [line.split()[:2] for line in printed.splitlines() if re.match("loss|grad|weights", line)] == [
        ["loss", "3"],
        ["gradients", "2"],
        ["weights", "2"],
    ]


def test_exit_statuses_and_worked_figures(tmp_path, compare):
    a = write_log(tmp_path / "a.jsonl", [4.0, 2.02, 2.0])
    b = write_log(tmp_path / "b.jsonl", [4.05, 2.0, 2.0])
    assert compare(a, b)[0] == 0
    status, printed = compare(a, b, "--tolerance", 0.011)
    assert status == 1, "0.05 / 4.05 is 1.23 %"
    assert re.search(r"loss +3 +0\.05 +step 0 +0\.0123 +step 0", printed)
    comparison = compare_runs(read_run(a), read_run(b))
    assert [d.absolute for d in comparison.parts["loss"]] == pytest.approx([0.05, 0.02, 0])
    assert [d.relative for d in comparison.parts["loss"]] == pytest.approx([0.05 / 4.05, 0.01, 0])
    assert compare(a, tmp_path / "absent")[0] == 2
    assert compare(a, b, "--tolerance", "nan")[0] == 2


def test_tensors_are_compared_by_norm(tmp_path, compare):
    save(tmp_path / "a.safetensors", adapter(scale=0.01))
    save(tmp_path / "b.safetensors", adapter())
    comparison = compare_runs(read_run(tmp_path / "a.safetensors"), read_run(tmp_path / "b.safetensors"))
    assert [d.relative for d in comparison.parts["weights"]] == pytest.approx([0.01, 0.01], rel=1e-4)
    reference = adapter()["A"]
    assert comparison.parts["weights"][0].absolute == pytest.approx(0.01 * reference.abs().max().item(), rel=1e-4)
    assert comparison.parts["weights"][0].b == pytest.approx(reference.norm().item())
    assert compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors")[0] == 0
    assert compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--tolerance", 0.005)[0] == 1


def test_unequal_lengths_compare_the_common_steps(tmp_path, compare):
    a = write_log(tmp_path / "a.jsonl", [4.0, 3.0, 2.0, 9.0])
    b = write_log(tmp_path / "b.jsonl", [4.0, 3.0, 2.0])
    status, printed = compare(a, b)
    assert status == 0
    assert "A has 4 steps from 0 to 3, B 3 steps from 0 to 2: the 3 common steps are compared" in printed


def test_no_common_step_cannot_be_compared(tmp_path, compare):
    a = write_log(tmp_path / "a.jsonl", [4.0, 3.0])
    b = write_log(tmp_path / "b.jsonl", [4.0, 3.0], start=10)
    status, printed = compare(a, b)
    assert status == 2
    assert "--offset" in printed
    assert compare(a, b, "--offset", -10)[0] == 0


def test_counting_from_zero_and_from_one(tmp_path, compare):
    a = write_log(tmp_path / "a.jsonl", [4.0, 3.0, 2.0])
    b = write_log(tmp_path / "b.jsonl", [4.0, 3.0, 2.0], start=1)
    status, printed = compare(a, b)
    assert status == 1
    assert "give --offset -1" in printed
    assert compare(a, b, "--offset", -1)[0] == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_outside(tmp_path, compare, bad):
    """Also where both runs broke down at the same step: that is no agreement."""
    a = write_log(tmp_path / "a.jsonl", [4.0, bad, 2.0])
    b = write_log(tmp_path / "b.jsonl", [4.0, bad, 2.0])
    status, printed = compare(a, b, "--json", tmp_path / "r.json", "--plot", tmp_path / "r.png")
    assert status == 1
    assert re.search(r"loss +3 +(nan|inf) +step 1 ", printed)
    step = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)["loss"][1]
    assert step["where"] == "step 1"
    assert step["relative"] == "nan"


def test_a_nan_in_a_tensor_is_outside(tmp_path, compare):
    broken = adapter()
    broken["A"][0, 0] = math.nan
    save(tmp_path / "a.safetensors", broken)
    save(tmp_path / "b.safetensors", adapter())
    assert compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--tolerance", 1e9)[0] == 1


def test_renamed_keys_are_found(tmp_path, compare):
    save(tmp_path / "a.safetensors", adapter(), "layers.0.self_attn.q_proj.lora_{}")
    save(tmp_path / "b.safetensors", adapter(), PEFT.replace(".weight", ".default.weight"))
    status, printed = compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--tolerance", 0)
    assert status == 0, printed


def test_missing_and_misshapen_tensors_are_outside(tmp_path, compare):
    a = adapter() | {"C": torch.ones(2)}
    b = adapter() | {"A": torch.ones(6, 4)}
    save(tmp_path / "a.safetensors", a)
    save(tmp_path / "b.safetensors", b)
    status, printed = compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert status == 1
    assert "lora_C.weight is only in A" in printed
    assert "lora_A.weight is (4, 6) in A and (6, 4) in B" in printed


def test_two_tensors_of_one_plain_name_are_refused(tmp_path, compare):
    save_file({"model.x.weight": torch.ones(1), "x.weight": torch.ones(1)}, tmp_path / "a.safetensors")
    assert compare(tmp_path / "a.safetensors", tmp_path / "a.safetensors")[0] == 2


def test_bfloat16_and_integers_and_empty_tensors(tmp_path, compare):
    tensors = {"x": torch.randn(3, 3).bfloat16(), "n": torch.arange(4), "e": torch.zeros(0, 2)}
    save_file(tensors, tmp_path / "a.safetensors")
    save_file(tensors | {"n": torch.arange(4) + 1}, tmp_path / "b.safetensors")
    assert compare(tmp_path / "a.safetensors", tmp_path / "a.safetensors", "--tolerance", 0)[0] == 0
    assert compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors")[0] == 1


def test_nothing_in_common(tmp_path, compare):
    log = write_log(tmp_path / "a.jsonl", [1.0])
    save(tmp_path / "b.safetensors", adapter())
    status, printed = compare(log, tmp_path / "b.safetensors")
    assert status == 2
    assert "nothing in common" in printed


def test_different_settings_and_learning_rates_are_listed(tmp_path, compare):
    for name, lr in (("a", 1e-3), ("b", 2e-3)):
        write_log(tmp_path / name / "loss.jsonl", [3.0, 2.0], lr=lr)
        about = {"settings": {"lr": lr, "batch": 4}, "base": "same", "data": {"fingerprint": name}}
        (tmp_path / name / "run.json").write_text(json.dumps(about))
    status, printed = compare(tmp_path / "a", tmp_path / "b")
    assert status == 0, "settings are told, numbers are judged"
    assert "Different settings: lr is 0.001 in A and 0.002 in B" in printed
    assert "token rows is a in A and b in B" in printed
    assert "batch" not in printed
    assert "learning rates differ by more than 1 % at 2 steps, first at step 0: 0.001 in A" in printed


def test_pefts_own_configuration_serves_as_settings(tmp_path, compare):
    for name, alpha in (("a", 16), ("b", 32)):
        save(tmp_path / name / "adapter_model.safetensors", adapter())
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": alpha}))
    assert "alpha is 16 in A and 32 in B" in compare(tmp_path / "a", tmp_path / "b")[1]


# --- reports ----------------------------------------------------------------------------------------------------------


HOSTILE = "<script>alert(1)</script>"


def test_hostile_text_is_escaped(tmp_path, compare):
    """HTML in a log, a file's name, settings and tensor names; escape sequences for the terminal."""
    for name in ("a", "<img src=x onerror=alert(1)> $x_1$"):
        folder = tmp_path / name
        write_log(folder / "loss.jsonl", [3.0, 2.0], text=HOSTILE, **{HOSTILE: HOSTILE})
        settings = {HOSTILE: HOSTILE + name, "lr\x1b[31m": "\x1b[2J" + name, "big": [[name] * 1000]}
        (folder / "run.json").write_text(json.dumps({"settings": settings, "data": HOSTILE, "base": name}))
        save_file({HOSTILE: torch.ones(2), f"\x1b[31m{name}": torch.ones(2)}, folder / "adapter_model.safetensors")
    reports = "--html", tmp_path / "r.html", "--json", tmp_path / "r.json", "--plot", tmp_path / "r.svg"
    status, printed = compare(tmp_path / "a", tmp_path / "<img src=x onerror=alert(1)> $x_1$", *reports)
    assert status == 1, "a tensor is only in one of them"
    assert "\x1b" not in printed
    page = (tmp_path / "r.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<img") == 1
    assert 'alt="Loss' in page
    assert "\x1b" not in page
    assert json.loads((tmp_path / "r.json").read_text())["weights"][0]["where"] == HOSTILE


def test_a_loss_that_is_html_is_refused(tmp_path, compare):
    log = write_log(tmp_path / "a.jsonl", [HOSTILE, 2.0])
    status, printed = compare(log, log)
    assert status == 2
    assert "line 1: this is not a JSON object with numbers" in printed


def test_reports_have_every_step_and_overwrite_nothing(tmp_path, compare):
    a = write_log(tmp_path / "a.jsonl", [3.0, 2.0, 1.5])
    b = write_log(tmp_path / "b.jsonl", [3.0, 2.0, 1.0])
    reports = "--json", tmp_path / "r.json", "--html", tmp_path / "r.html", "--plot", tmp_path / "r.png"
    assert compare(a, b, *reports)[0] == 1
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["within"] is False
    assert [(d["where"], d["a"], d["b"]) for d in report["loss"]] == [
        ("step 0", 3.0, 3.0),
        ("step 1", 2.0, 2.0),
        ("step 2", 1.5, 1.0),
    ]
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert "<td>step 2</td><td>1.5</td><td>1</td><td>0.5</td><td>0.5</td>" in (tmp_path / "r.html").read_text()
    before = (tmp_path / "r.html").read_bytes()
    for option in (reports[:2], reports[2:4], reports[4:]):
        status, printed = compare(a, b, *option)
        assert status == 2
        assert "exists" in printed
    assert (tmp_path / "r.html").read_bytes() == before


def test_a_plot_needs_losses_and_a_known_ending(tmp_path, compare):
    save(tmp_path / "a.safetensors", adapter())
    a = tmp_path / "a.safetensors"
    assert "no losses to plot" in compare(a, a, "--plot", tmp_path / "r.png")[1]
    assert "ends in .png" in compare(a, a, "--plot", tmp_path / "r.exe")[1]
    assert compare(a, a, "--html", tmp_path / "r.html")[0] == 0
    assert "<img" not in (tmp_path / "r.html").read_text()
