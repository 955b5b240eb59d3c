"""`course align run`: what a run leaves behind, and what it refuses. Its numbers: tests/parity/test_align.py."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from course_lib.cli import main
from course_lib.parity.recipes import RECIPES, AlignSettings, targets_of
from course_lib.parity.reference import count_steps

LETTERS = "abcdefghijklmnopqrstuvwxyz ."
ADAPTER = {"adapter_model.safetensors", "adapter_config.json"}


@pytest.fixture
def model(tiny_llama, tmp_path):
    vocabulary = {letter: number for number, letter in enumerate(["?", *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(tmp_path / "model")
    tiny_llama.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def wikitext(tmp_path):
    """A folder as WikiText-2 has it: 1,600 characters to train on."""
    folder = tmp_path / "wikitext-2-raw"
    folder.mkdir()
    for split, size in (("train", 800), ("valid", 100)):
        article = " = A title = \n" + LETTERS * (size // len(LETTERS) + 1)
        (folder / f"wiki.{split}.raw").write_text((article[: size - 1] + "\n") * 2)
    return folder


@pytest.fixture
def align(model, wikitext, tmp_path, capsys):
    """`course align run smollm2-lora` on a small model: (exit status, what it printed)."""

    def command(name, options="--steps 3", recipe="smollm2-lora"):
        common = ["--model", str(model), "--data", str(wikitext), "--output", str(tmp_path / name)]
        status = main(["align", "run", recipe, *common, "--batch", "2", "--seq-len", "32", *options.split()])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return command


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("side", ["", "--ours"])
def test_what_a_run_leaves_behind(align, tmp_path, side):
    status, printed = align("run", f"--steps 3 --dump-gradients 2 --rank 4 --alpha 12 {side}")
    assert status == 0, printed
    assert "step 0 | loss" in printed
    gradients = {f"gradients/step_00000{step}.safetensors" for step in (0, 1)}
    initial = {f"initial/{name}" for name in ADAPTER}
    assert names(tmp_path / "run") == {"loss.jsonl", "run.json"} | ADAPTER | initial | gradients
    records = [json.loads(line) for line in (tmp_path / "run" / "loss.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [0, 1, 2]
    assert all({"loss", "lr", "norm"} <= record.keys() for record in records)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["side"] == ("ours" if side else "reference")
    assert (about["settings"]["steps"], about["settings"]["rank"]) == (3, 4)
    assert (about["data"]["rows"], about["data"]["tokens"]) == (50, 1600)
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], sorted(config["target_modules"])) == (4, 12, ["q_proj", "v_proj"])
    trained = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert trained.keys() == load_file(tmp_path / "run" / "gradients" / "step_000000.safetensors").keys()


def test_both_sides_start_alike_and_the_seed_decides(align, tmp_path):
    align("ours", "--steps 1 --ours")
    align("theirs", "--steps 1")
    align("other", "--steps 1 --seed 1")
    ours, theirs, other = (
        load_file(tmp_path / name / "initial" / "adapter_model.safetensors") for name in ("ours", "theirs", "other")
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not all(torch.equal(ours[key], other[key]) for key in ours)
    first = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("ours", "theirs", "other")]
    assert first[0]["start"] == first[1]["start"] != first[2]["start"]
    assert first[0]["base"] == first[2]["base"]


def test_compare_tells_two_different_runs_apart(align, tmp_path, capsys):
    """The check can fail: another alpha gives other losses, and the settings say why."""
    align("a", "--steps 10 --lr 0.02 --ours")
    align("b", "--steps 10 --lr 0.02 --alpha 64")
    assert main(["align", "compare", str(tmp_path / "a"), str(tmp_path / "b"), "--tolerance", "0.0001"]) == 1
    assert "Different settings: alpha is 16 in A and 64 in B" in capsys.readouterr().out


@pytest.mark.parametrize("side", ["", "--ours"])
def test_a_run_starts_from_a_given_adapter(align, tmp_path, side):
    align("first", "--steps 2 --lr 0.01 --rank 3 --alpha 5")
    status, printed = align("second", f"--steps 1 --init {tmp_path / 'first'} {side}")
    assert status == 0, printed
    first, start = (
        load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("first", "second/initial")
    )
    assert all(torch.equal(first[key], start[key]) for key in first)
    settings = json.loads((tmp_path / "second" / "run.json").read_text())["settings"]
    assert (settings["rank"], settings["alpha"]) == (3, 5)
    last = json.loads((tmp_path / "second" / "adapter_config.json").read_text())
    assert (last["r"], last["lora_alpha"]) == (3, 5)


@pytest.mark.parametrize("side", ["", "--ours"])
def test_epochs_become_steps(align, tmp_path, side):
    """50 rows are 25 micro-batches of 2; of 4 to a step that is 7 steps, the last filled from the next pass."""
    status, printed = align("run", f"--epochs 1 --grad-accum 4 {side}")
    assert status == 0, printed
    assert len((tmp_path / "run" / "loss.jsonl").read_text().splitlines()) == 7
    assert count_steps(AlignSettings("none", batch_size=8, epochs=2, grad_accum_steps=4), 64) == 4


def test_target_modes(align, tmp_path):
    assert targets_of("gpt2-lora", "full") == RECIPES["gpt2-lora"].target_modules
    assert targets_of("gemma-lora", "full") == RECIPES["gemma-lora"].target_modules
    align("run", "--steps 1 --target-mode all")
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert len(config["target_modules"]) == 7
    assert len(load_file(tmp_path / "run" / "adapter_model.safetensors")) == 2 * 7 * 2


def test_bfloat16_base_keeps_a_float32_adapter(align, tmp_path):
    for name, side in (("ours", "--ours"), ("theirs", "")):
        assert align(name, f"--steps 2 --dtype bfloat16 {side}")[0] == 0
        tensors = load_file(tmp_path / name / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    # 8 bits: PEFT adds its path in float32 and rounds once, ours rounds the path first
    assert (
        main(["align", "compare", str(tmp_path / "ours" / "loss.jsonl"), str(tmp_path / "theirs" / "loss.jsonl")]) == 0
    )


def test_linear_schedule_falls_to_zero(align, tmp_path):
    align("run", "--steps 4 --schedule linear --warmup-ratio 0 --lr 1.0e-3")
    records = [json.loads(line) for line in (tmp_path / "run" / "loss.jsonl").read_text().splitlines()]
    assert [record["lr"] for record in records] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


@pytest.mark.parametrize(
    ("options", "recipe", "message"),
    [
        ("--steps 0", "smollm2-lora", "--steps 0 is not possible. It has to be at least 1."),
        ("--steps 1 --epochs 1", "smollm2-lora", "not both"),
        ("--steps 1 --lr nan", "smollm2-lora", "--lr nan is not possible"),
        ("--steps 1 --lr inf", "smollm2-lora", "--lr inf is not possible"),
        ("--steps 1 --warmup-ratio 1", "smollm2-lora", "below 1"),
        ("--steps 1 --seq-len 129", "smollm2-lora", "more than the 128 positions"),
        ("--steps 1 --batch 51", "smollm2-lora", "51"),
        ("--steps 1", "gpt2-lora", "no layer c_attn, attn.c_proj"),
        ("--steps 1 --rank 4", "gpt2-full", "--rank is for an adapter"),
        ("--steps 1 --init nowhere", "gpt2-full", "--init is for an adapter"),
        ("--steps 1 --init nowhere", "smollm2-lora", "There is no adapter nowhere."),
        ("--steps 1 --init .", "smollm2-lora", "no adapter_model.safetensors"),
        ("--steps 1 --model ./nowhere", "smollm2-lora", "--model ./nowhere: there is no such file or folder"),
        ("--steps 1 --data nots.txt", "smollm2-lora", "There is no corpus 'nots.txt'"),
        ("--steps 1 --data wikitxt2", "smollm2-lora", "Did you mean wikitext2?"),
        ("--steps 1 --init nowhere --alpha 4", "smollm2-lora", "--alpha cannot be given with --init"),
        ("--steps 1 --split test", "smollm2-lora", "contains neither wiki.test.raw"),
    ],
)
def test_refusals_are_one_line(align, options, recipe, message):
    status, printed = align("run", options, recipe)
    assert status == 2
    assert message in printed
    assert printed.rstrip().splitlines()[-1].startswith("course: ")


def test_a_folder_with_something_in_it_is_left_alone(align, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    status, printed = align("run")
    assert status == 2
    assert "not empty" in printed
    assert names(tmp_path / "run") == {"mine.txt"}


@pytest.mark.parametrize("side", ["", "--ours"])
def test_a_loss_that_is_no_number_stops_the_run(align, tiny_llama, model, tmp_path, side):
    tiny_llama.lm_head.weight.data[5] = math.nan
    tiny_llama.save_pretrained(model)
    status, printed = align("run", f"--steps 2 {side}")
    assert status == 2
    assert "loss at step 0 is nan" in printed
    assert not (tmp_path / "run" / "run.json").exists(), "what has no run.json was not finished"


def test_an_init_that_does_not_fit_is_named(align, tmp_path):
    align("first", "--steps 1")
    config = tmp_path / "first" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 5}))
    status, printed = align("second", f"--steps 1 --init {tmp_path / 'first'}")
    assert status == 2
    assert "is not for this model" in printed


def test_warmup_is_rounded_up():
    assert AlignSettings("none", steps=100).warmup_steps == 3
    assert AlignSettings("none", steps=30).warmup_steps == math.ceil(0.9)
    assert AlignSettings("none", steps=30, warmup_ratio=0).warmup_steps == 0
