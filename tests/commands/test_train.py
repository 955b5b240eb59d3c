"""`course train` from end to end on tiny models: what it prints, what it writes, what it refuses."""

import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_runs import run, train

from course_lib.cli import main
from course_lib.evaluation import evaluate_loss
from course_lib.finetuning.model import load_base
from course_lib.finetuning.settings import Settings, complete
from course_lib.finetuning.sources import read_source
from course_lib.models.config import CONFIGS
from course_lib.training import read_log

MODES = {
    ("lora", "llama"): ["--rank", 4, "--lr", 1e-2],
    ("lora", "gpt2"): ["--rank", 4, "--lr", 1e-2, "--use-rslora", "--lora-dropout", 0.1, "--schedule", "linear"],
    ("butterfly", "llama"): ["--butterfly-stages", 5, "--lr", 1e-2],
    ("butterfly-block", "gpt2"): ["--butterfly-block-size", 16, "--lr", 1e-2, "--target-modules", "c_attn", "c_proj"],
    ("full", "gpt2"): ["--lr", 1e-2, "--gradient-checkpointing"],
    ("full", "llama"): ["--lr", 1e-2, "--autocast", "bfloat16"],
}


@pytest.mark.parametrize(("mode", "model"), MODES)
def test_each_mode_learns_and_writes_what_it_says(models, text, capsys, mode, model):
    options = MODES[mode, model]
    assert run(models, text, "--mode", mode, "--steps", 12, "--log-every", 4, *options, model=model) == 0
    folder, printed = models / "run", capsys.readouterr().out
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["held_out_loss_before"] == pytest.approx(math.log(300), rel=0.05)  # random weights
    assert summary["held_out_loss_after"] < summary["held_out_loss_before"] - (0.005 if "butterfly" in mode else 0.1)
    assert summary["perplexity_after"] == pytest.approx(math.exp(summary["held_out_loss_after"]))
    assert summary["peak_memory_bytes"] > 1e7
    assert summary["tokens_per_second"] > 0
    assert len(read_log(folder / "log.jsonl")) == 12
    assert [line.split(" | ")[0] for line in printed.splitlines() if line.startswith("step ")] == [
        "step 0",
        "step 4",
        "step 8",
        "step 11",
    ]
    assert f"trainable: {summary['trainable']:,} of {summary['parameters']:,}" in printed
    assert summary["result_bytes"] == (folder / summary["result"]).stat().st_size
    assert f"{summary['result_bytes']:,} bytes" in printed
    with Image.open(folder / "loss.png") as image:
        assert image.size[0] > 500
    settings = json.loads((folder / "run.json").read_text())["settings"]
    assert set(settings) == {field for field in Settings.__dataclass_fields__}
    assert settings["mode"] == mode
    assert not list(folder.glob(".*"))


def test_the_adapter_loads_in_peft_and_the_full_model_in_transformers(models, text):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = torch.arange(3, 20)[None]
    run(models, text, "--steps", 3, "--lr", 1e-2, output="lora")
    base = AutoModelForCausalLM.from_pretrained(models / "llama").eval()
    before = base(ids).logits
    assert (PeftModel.from_pretrained(base, models / "lora")(ids).logits - before).abs().max() > 1e-3
    config = json.loads((models / "lora" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(models / "llama")

    run(models, text, "--mode", "full", "--steps", 3, "--lr", 1e-2, output="full")
    whole = AutoModelForCausalLM.from_pretrained(models / "full").eval()
    assert (whole(ids).logits - before).abs().max() > 1e-3
    after = json.loads((models / "full" / "summary.json").read_text())["held_out_loss_after"]
    tokenizer = AutoTokenizer.from_pretrained(models / "full")
    source = read_source(str(text), tokenizer, 32, max_eval=64)
    assert evaluate_loss(whole, source.held_out, 4) == pytest.approx(after, abs=1e-6)


def test_header_names_layers_data_schedule_and_batch(models, text, capsys):
    run(models, text, "--steps", 40, "--dry-run", model="gpt2")
    printed = capsys.readouterr().out
    assert "transformer.h.*.attn.c_attn: +1,024 trainable each, 2 layers: +2,048" in printed  # 8 * (32 + 96)
    assert "rank 8, alpha 16" in printed
    assert re.search(r"data: .*notes.txt: \d+ blocks of 32 tokens, [\d,]+ tokens; \d+ rows held out", printed)
    assert "40 steps" in printed
    assert "learning rate 3.0e-04 after 4 steps of warm-up, cosine to 10%" in printed
    assert "effective 16 = 4 rows x 4 micro-batches, up to 512 tokens a step" in printed


def test_memory_is_stated_before_and_after_wrapping(models, text, capsys):
    """GPT-2 in bfloat16 would be too small to see: the lines stand in order, each with the memory of the process."""
    run(models, text, "--steps", 1, model="gpt2")
    lines = capsys.readouterr().out.splitlines()
    before, after = (
        next(number for number, line in enumerate(lines) if line.startswith(start))
        for start in ("memory with the base", "memory with what is trained on it")
    )
    step = next(number for number, line in enumerate(lines) if line.startswith("step 0"))
    assert before < after < step
    sizes = [float(re.search(r"([\d,]+) MB$", lines[number])[1].replace(",", "")) for number in (before, after)]
    assert 50 < sizes[0] <= 1.2 * sizes[1]


def test_a_dry_run_touches_nothing_and_its_sum_is_right(models, text, capsys):
    before = sorted(models.rglob("*"))
    assert run(models, text, "--mode", "full", "--dry-run") == 0
    assert sorted(models.rglob("*")) == before
    printed = capsys.readouterr().out
    # A row is marked with the moments when its part exists: the largest sum is the total.
    rows = re.findall(r"^  ([ab ]{2})  (\w[\w ',]*?) +([\d.]+) GiB", printed, re.M)
    parts = {name: (marks, float(size)) for marks, name, size in rows}
    total = parts.pop("total, the largest")[1]
    sums = [parts.pop("at the loss")[1], parts.pop("at the last gradient")[1]]
    for moment, expected in zip("ab", sums, strict=True):
        assert sum(size for marks, size in parts.values() if moment in marks) == pytest.approx(expected, abs=0.004)
    assert total == max(sums) > 0
    assert (
        main(["train", "--model", str(models / "llama"), "--dataset", str(text), "--seq-len", "32", "--dry-run"]) == 0
    )


def test_a_shape_of_ours_from_random_weights(models, text, capsys):
    """tiny-gpt takes the tokenizer's vocabulary; its untrained weights stay, for the adapter that is put on them."""
    options = ["--model", "tiny-gpt", "--tokenizer", models / "llama", "--dataset", text, "--steps", 4, "--lr", 1e-2]
    assert train(*options, "--output", models / "scratch") == 0
    config = json.loads((models / "scratch" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(models / "scratch" / "base")
    expected = replace(CONFIGS["tiny-gpt"], vocab_size=300)
    assert json.loads((models / "scratch" / "base" / "config.json").read_text())["vocab_size"] == expected.vocab_size
    assert train(*options, "--mode", "full", "--output", models / "full") == 0
    assert main(["compare", "--adapter", str(models / "scratch"), "--samples", "1", "--max-new-tokens", "3"]) == 0


@pytest.mark.parametrize("backend", ["ours", "bitsandbytes"])
def test_qlora_trains_on_a_base_in_four_bits(models, text, capsys, backend):
    """The adapter gets gradients after an evaluation too, and the frozen weights are stored in 4 bits."""
    if backend == "bitsandbytes":
        pytest.importorskip("bitsandbytes")
    options = ["--mode", "qlora", "--backend", backend, "--steps", 12, "--lr", 1e-2, "--eval-every", 4]
    assert run(models, text, *options) == 0
    records = read_log(models / "run" / "log.jsonl")
    assert min(record.norm for record in records) > 1e-3
    assert records[-1].loss < records[0].loss - 0.1
    given = {"mode": "qlora", "model": str(models / "llama"), "backend": backend}
    settings = replace(complete(given), target_modules=("q_proj",))
    for model, name, numbers in (
        ("llama", "model.layers.0.mlp.up_proj", 64 * 32),
        ("gpt2", "transformer.h.0.attn.c_attn", 96 * 32),
    ):
        layer = load_base(replace(settings, model=str(models / model)), models).get_submodule(name)
        packed = layer.packed if backend == "ours" else layer.weight
        assert packed.dtype == torch.uint8
        assert packed.numel() == numbers // 2


def test_qlora_settings_reach_the_base(models):
    """Kind and double quantisation are those that were asked for, and double quantisation is on where nothing is."""
    given = {"mode": "qlora", "model": str(models / "llama")}
    for explicit, double_quant in (({}, True), ({"double_quant": False}, False)):
        for kind in ("nf4", "fp4", "int4"):
            settings = complete(given | explicit | {"quant_type": kind})
            layer = load_base(settings, models).model.layers[0].mlp.up_proj
            assert (layer.quant_type, layer.quantized.double_quant) == (kind, double_quant)


@pytest.mark.slow
@pytest.mark.weights
def test_lora_on_smollm2_end_to_end(tmp_path, capsys):
    """Three steps on the bundled text lower the held-out loss; compare shows base and adapter."""
    options = ["--steps", "3", "--batch-size", "2", "--grad-accum-steps", "1", "--seq-len", "48", "--lr", "2e-3"]
    assert main(["train", "--output", str(tmp_path / "keeper"), *options]) == 0
    printed = capsys.readouterr().out
    assert "model.layers.*.self_attn.q_proj: +9,216 trainable each, 30 layers: +276,480" in printed
    assert "trainable: 460,800 of 134,515,008 (0.34 %)" in printed
    summary = json.loads((tmp_path / "keeper" / "summary.json").read_text())
    assert summary["held_out_loss_after"] < summary["held_out_loss_before"]
    shown = ["compare", "--adapter", str(tmp_path / "keeper"), "--samples", "1", "--max-new-tokens", "8"]
    assert main(shown) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0] == "smollm2-135m-instruct and its adapters, side by side"
    assert re.search(r"^base +\| keeper$", text, re.M)


# --- refusals ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rank", 999], "rank 999"),
        (["--target-modules", "nothing"], "nothing"),
        (["--steps", 5, "--epochs", 1], "give one of them"),
        (["--grad-accum-steps", 2, "--tokens-per-step", 64], "give one of them"),
        (["--lr", -1], "--lr"),
        (["--batch-size", 0], "--batch-size"),
        (["--warmup-ratio", 2], "--warmup-ratio"),
        (["--seq-len", 4096], "128 positions"),
        (["--dataset", "/nowhere/at all.txt"], "no corpus '/nowhere/at all.txt'"),
        (["--dataset", "wikitxt2"], "Did you mean wikitext2?"),
        (["--model", "./lama"], "--model ./lama: there is no such file or folder"),
        (["--weights", "w.pt"], "--weights w.pt: there is no such file"),
        (["--eval-strategy", "steps", "--log-every", 0], "--eval-strategy steps needs --eval-every N"),
        (["--eval-strategy", "epoch", "--eval-every", 3], "does not go with --eval-every"),
        (["--dataset", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--model", "no such model"], "no such model"),
        (["--from-scratch"], "from scratch"),
        (["--mode", "butterfly-block", "--butterfly-block-size", 24], "block_size 24"),
        (
            ["--mode", "full", "--dtype", "float16"],
            "Give --dtype bfloat16, which is trained with float32 master weights",
        ),
        (["--mode", "full", "--rank", 8], "--rank belongs to --mode lora, qlora and not to full"),
        (["--double-quant"], "--double-quant belongs to --mode qlora and not to lora"),
        (["--mode", "qlora", "--backend", "bitsandbytes", "--quant-type", "int4"], "int4 is not known to bitsandbytes"),
        (
            ["--mode", "butterfly", "--butterfly-block-size", 8],
            "belongs to --mode butterfly-block",
        ),
        (["--device", "toaster"], "no device 'toaster'"),
        (["--resume", "--force"], "Give one of them"),
    ],
)
def test_errors_are_one_sentence_and_leave_nothing(models, text, capsys, arguments, said):
    assert run(models, text, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("course: ")
    assert "Traceback" not in error
    assert not (models / "run").exists()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("tokenizer.json", None, "has no tokenizer"),
        ("config.json", "{", "It looks like the config file"),
        ("config.json", '{"model_type": "martian"}', "could not be loaded: The checkpoint you are trying to load has"),
        ("config.json", '{"model_type": "t5"}', "could not be loaded: Unrecognized configuration class"),
        ("model.safetensors", "short", "model.safetensors is damaged, or not a safetensors file"),
    ],
)
def test_a_damaged_model_is_refused_in_one_sentence(models, text, capsys, file, content, said):
    (models / "gpt2" / file).unlink()
    if content:
        (models / "gpt2" / file).write_text(content)
    assert run(models, text, "--steps", 1, model="gpt2") == 2
    error = capsys.readouterr().err
    assert error.startswith("course: ")
    assert said in error
    assert error.count("\n") == 1


def test_a_base_of_nan_is_blamed_and_not_the_learning_rate(models, text, capsys):
    path = models / "llama" / "model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    assert run(models, text, "--steps", 1) == 2
    assert "llama is nan before any training. Its weights hold NaN or infinity" in capsys.readouterr().err


def test_bfloat16_weights_learn_as_float32_and_are_saved_in_bfloat16(models, text, capsys):
    """What the refusal of float16 recommends. Without masters most of these weights would stay as they were."""
    options = ["--mode", "full", "--steps", 12, "--lr", 1e-4, "--schedule", "constant", "--warmup-ratio", 0]
    assert run(models, text, *options, output="float32") == 0
    capsys.readouterr()
    assert run(models, text, *options, "--dtype", "bfloat16", "--checkpoint-every", 5) == 0
    assert "in bfloat16, trained with float32 master weights and saved in bfloat16" in capsys.readouterr().out
    after = [json.loads((models / name / "summary.json").read_text()) for name in ("float32", "run")]
    gains = [s["held_out_loss_before"] - s["held_out_loss_after"] for s in after]
    assert gains[1] == pytest.approx(gains[0], rel=0.05)
    saved, start = load_file(models / "run" / "model.safetensors"), load_file(models / "llama" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    unmoved = sum((saved[name] == start[name].bfloat16()).sum().item() for name in saved)
    assert unmoved / sum(tensor.numel() for tensor in saved.values()) < 0.3
    whole = (models / "run" / "model.safetensors").read_bytes()
    shutil.rmtree(models / "run" / "checkpoints" / "step_000012")
    assert train("--output", models / "run", "--resume") == 0  # from step 10
    assert (models / "run" / "model.safetensors").read_bytes() == whole


def test_another_folder_is_never_overwritten(models, text, capsys):
    run(models, text, "--steps", 2)
    first = (models / "run" / "adapter_model.safetensors").read_bytes()
    assert run(models, text, "--steps", 2, "--seed", 1) == 2
    assert "--resume continues it, --force replaces it" in capsys.readouterr().err
    assert run(models, text, "--resume", "--seed", 1) == 2
    assert "was begun with --seed 0, not 1" in capsys.readouterr().err
    assert (models / "run" / "adapter_model.safetensors").read_bytes() == first
    (models / "run" / "mine.txt").write_text("mine")
    assert run(models, text, "--steps", 2, "--seed", 1, "--force") == 0
    assert (models / "run" / "adapter_model.safetensors").read_bytes() != first
    assert (models / "run" / "mine.txt").read_text() == "mine"
    (models / "other").mkdir()
    (models / "other" / "letter.txt").write_text("dear")
    assert run(models, text, output="other") == 2
    assert run(models, text, "--resume", output="other") == 2
    assert [path.name for path in (models / "other").iterdir()] == ["letter.txt"]


def test_shards_of_another_tokenizer_are_refused(models, capsys):
    folder = models / "shards"
    folder.mkdir()
    for split in ("train", "val"):
        np.save(folder / f"{split}_00000.npy", np.full(100, 40_000, dtype=np.uint16))
    assert run(models, folder) == 2
    assert "tokenised for another model" in capsys.readouterr().err
