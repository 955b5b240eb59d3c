"""`course train` from end to end on tiny models: what it prints, writes, refuses, resumes, and what it costs."""

import copy
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib import training
from course_lib.cli import main
from course_lib.data import pad
from course_lib.errors import CourseError
from course_lib.evaluation import evaluate_loss
from course_lib.finetuning.memory import BYTES, block_elements, estimate_memory
from course_lib.finetuning.model import adapt, load_base, shape_of
from course_lib.finetuning.plan import make_plan
from course_lib.finetuning.settings import DTYPES, SCHEDULES, Settings, defaults
from course_lib.finetuning.sources import MicroBatches, Source, held_out_loss, read_source
from course_lib.models.config import CONFIGS
from course_lib.training import Trainer, TrainingConfig, next_token_loss, read_log

TEXT = "\n\n".join(f"Line {n}: the keeper lit lamp number {n % 7} and noted the wind." for n in range(60))


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<pad>", "<bos>", "<eos>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


@pytest.fixture
def models(tmp_path, tokenizer):
    """A Llama and a GPT-2 of 2 layers in folders, with that tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2, max_position_embeddings=128, **ids))
    gpt2 = GPT2LMHeadModel(GPT2Config(n_positions=128, n_embd=32, n_layer=2, n_head=4, **ids))
    for name, model in {"llama": llama, "gpt2": gpt2}.items():
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return tmp_path


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text(TEXT)
    return path


def train(*arguments):
    return main(["train", "--seq-len", "32", "--threads", "1", *map(str, arguments)])


def run(models, text, *arguments, model="llama", output="run"):
    return train("--model", models / model, "--dataset", text, "--output", models / output, *arguments)


MODES = {
    ("lora", "llama"): ["--rank", 4, "--lr", 1e-2],
    ("lora", "gpt2"): ["--rank", 4, "--lr", 1e-2, "--rslora", "--dropout", 0.1, "--schedule", "linear"],
    ("butterfly", "llama"): ["--stages", 5, "--lr", 1e-2],
    ("butterfly-block", "gpt2"): ["--block-size", 16, "--lr", 1e-2, "--targets", "c_attn", "c_proj"],
    ("full", "gpt2"): ["--lr", 1e-2, "--checkpoint-activations"],
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
    assert held_out_loss(whole, source, 4) == pytest.approx(after, abs=1e-6)


def test_lora_counts_are_those_of_the_formula(capsys):
    """GPT-2 small, rank 8 on c_attn: 8 * (768 + 2304) = 24,576 a layer, 294,912 in all, 0.24 % of 124 million."""
    settings = replace(defaults({"model": "gpt2", "from_scratch": True}), targets=("c_attn",))
    tokenizer = type("Tokenizer", (), {"vocab_size": 50_257})()
    model = shape_of(settings, tokenizer)
    total = sum(p.numel() for p in model.parameters())
    adapt(model, settings)
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    assert sum(trained) == 294_912
    assert set(map(sum, zip(trained[::2], trained[1::2], strict=True))) == {24_576}
    assert total == 124_439_808


def test_header_names_layers_data_schedule_and_batch(models, text, capsys):
    run(models, text, "--steps", 40, "--dry-run", model="gpt2")
    printed = capsys.readouterr().out
    assert "transformer.h.*.attn.c_attn: +1,024 trainable each, 2 layers: +2,048" in printed  # 8 * (32 + 96)
    assert "rank 8, alpha 16" in printed
    assert re.search(r"data: .*notes.txt: \d+ blocks of 32 tokens, [\d,]+ tokens; \d+ rows held out", printed)
    assert "40 steps" in printed
    assert "learning rate 3.0e-04 after 4 steps of warm-up, cosine to 10%" in printed
    assert "effective 16 = 4 rows x 4 micro-batches, up to 512 tokens a step" in printed


def test_a_dry_run_touches_nothing_and_its_sum_is_right(models, text, capsys):
    before = sorted(models.rglob("*"))
    assert run(models, text, "--mode", "full", "--dry-run") == 0
    assert sorted(models.rglob("*")) == before
    parts = dict(re.findall(r"^  (\w[\w ]*?) +([\d,.]+) MB$", capsys.readouterr().out, re.M))
    values = {name: float(size.replace(",", "")) for name, size in parts.items()}
    assert values.pop("in all") == pytest.approx(sum(values.values()), abs=0.3)
    assert (
        main(["train", "--model", str(models / "llama"), "--dataset", str(text), "--seq-len", "32", "--dry-run"]) == 0
    )


# --- refusals ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rank", 999], "rank 999"),
        (["--targets", "nothing"], "nothing"),
        (["--steps", 5, "--epochs", 1], "give one of them"),
        (["--accumulate", 2, "--target-tokens", 64], "give one of them"),
        (["--lr", -1], "--lr"),
        (["--batch-size", 0], "--batch-size"),
        (["--warmup-ratio", 2], "--warmup-ratio"),
        (["--seq-len", 4096], "128 positions"),
        (["--dataset", "/nowhere/at all.txt"], "no corpus"),
        (["--dataset", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--model", "no such model"], "no such model"),
        (["--from-scratch"], "from scratch"),
        (["--mode", "butterfly-block", "--block-size", 24], "block_size 24"),
        (["--mode", "full", "--dtype", "float16"], "float16"),
        (["--mode", "full", "--rank", 8], "--rank is of --mode lora, qlora"),
        (["--mode", "butterfly", "--block-size", 8], "--block-size is of --mode butterfly-block"),
        (["--device", "toaster"], "no device 'toaster'"),
        (["--resume", "--force"], "give one of them"),
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
        ("model.safetensors", "short", "could not be loaded: Error while deserializing header"),
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


def test_another_folder_is_never_overwritten(models, text, capsys):
    run(models, text, "--steps", 2)
    first = (models / "run" / "adapter_model.safetensors").read_bytes()
    assert run(models, text, "--steps", 2, "--seed", 1) == 2
    assert "--resume goes on with it, --force replaces it" in capsys.readouterr().err
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


# --- resuming ---


def test_resume_in_a_new_folder_says_that_it_begins(models, text, capsys):
    assert run(models, text, "--steps", 1, "--resume") == 0
    assert "holds no run to go on with: a new one begins" in capsys.readouterr().out


def test_a_checkpoint_is_compared_like_an_adapter_and_the_run_may_have_moved(models, text, capsys):
    """What the run wrote at its end is what its last checkpoint holds; a random base lies in the run's own folder."""
    options = ["--model", "tiny-gpt", "--tokenizer", models / "llama", "--dataset", text, "--lr", 1e-1]
    assert train(*options, "--output", models / "first", "--steps", 6, "--checkpoint-every", 2, "--eval-every", 4) == 0
    assert re.findall(r"^step (\d+) .* eval", capsys.readouterr().out, re.M) == ["3", "5"]
    (models / "first").rename(models / "moved")
    found = sorted((models / "moved" / "checkpoints").iterdir())
    assert [path.name for path in found] == ["best", "step_000002", "step_000004", "step_000006"]
    each = [argument for path in (models / "moved", *found[1:]) for argument in ("--adapter", path)]
    base = ["--base", models / "moved" / "base"]
    assert main(["compare", *map(str, base + each), "--samples", "1", "--max-new-tokens", "12"]) == 0
    said = dict(re.findall(r"^  (\w+):\n    (.*)$", capsys.readouterr().out.split("SIDE BY SIDE")[1], re.M))
    assert said["moved"] == said["step_000006"] != said["step_000002"]
    assert main(["compare", "--adapter", str(models / "moved"), "--samples", "1", "--max-new-tokens", "2"]) == 0
    assert main(["merge", "--adapter", str(found[0]), "--output", str(models / "m")]) == 2
    assert "course adapters export makes an adapter of it" in capsys.readouterr().err


def test_resume_after_the_end_keeps_the_log_and_the_result(models, text, capsys):
    run(models, text, "--steps", 4)
    before = {name: (models / "run" / name).read_bytes() for name in ("log.jsonl", "adapter_model.safetensors")}
    assert train("--output", models / "run", "--resume") == 0
    assert {name: (models / "run" / name).read_bytes() for name in before} == before


def test_resume_refuses_other_data(models, text, capsys):
    run(models, text, "--steps", 2)
    text.write_text(TEXT.replace("keeper", "captain"))
    assert train("--output", models / "run", "--resume") == 2
    assert "is not what it was" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_and_resumed_the_log_is_bit_identical(models, text):
    """kill -9 after a few steps, then the same command with --resume: losses, norms and weights are those of a run
    that was left alone."""
    command = [sys.executable, "-m", "course_lib.cli", "train", "--model", models / "llama", "--dataset", text]
    command += ["--seq-len", 32, "--dropout", 0.1, "--target-tokens", 90, "--epochs", 3, "--eval-every", 7]
    command += ["--batch-size", 2, "--threads", 1, "--resume", "--output"]
    command = list(map(str, command))
    subprocess.run([*command, models / "whole"], check=True, capture_output=True, timeout=120)
    process = subprocess.Popen([*command, models / "cut"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log, deadline = models / "cut" / "log.jsonl", time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if log.is_file() and len(log.read_text().splitlines()) >= 5:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (models / "cut" / "summary.json").exists(), "the run ended before it was killed"
    subprocess.run([*command, models / "cut"], check=True, capture_output=True, timeout=120)
    whole, cut = (read_log(models / name / "log.jsonl") for name in ("whole", "cut"))
    assert [(r.step, r.loss, r.lr, r.norm, r.eval_loss) for r in cut] == [
        (r.step, r.loss, r.lr, r.norm, r.eval_loss) for r in whole
    ]
    weights = [(models / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


# --- data ---


def test_token_aware_steps_are_what_one_large_batch_would_be(models, text):
    """A step over micro-batches of unequal lengths is the step on all of its rows at once."""
    tokenizer_path = models / "llama"
    settings = defaults({"model": str(tokenizer_path), "dataset": str(text), "target_tokens": 60, "batch_size": 2})
    assert settings.checkpoint_every == 1
    plan = make_plan(replace(settings, seq_len=24))
    sizes = [plan.batches.tokens(i) for i in range(len(plan.batches))]
    assert sizes == [int(batch["attention_mask"].sum()) for batch in plan.batches]
    assert len(set(sizes)) > 1, "documents of one length would test nothing"

    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tokenizer_path)
    micro, whole = copy.deepcopy(model), copy.deepcopy(model)
    trainer = Trainer(micro, TrainingConfig(lr=1e-2, tokens_per_step=60), log_every=0)
    parts = trainer.plan_steps(plan.batches)
    assert len(parts) == plan.steps
    first = [plan.batches[i] for i in parts[0]]
    rows = [
        {"input_ids": ids[mask == 1].tolist(), "labels": ids[mask == 1].tolist()}
        for batch in first
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    record = trainer.train(first)[0]
    single = Trainer(whole, TrainingConfig(lr=1e-2), log_every=0).train([pad(rows, 0)])[0]
    assert record.loss == pytest.approx(single.loss, rel=1e-5)
    assert record.norm == pytest.approx(single.norm, rel=1e-4)


@pytest.mark.parametrize("steps", [1, 3, 11])
def test_token_aware_steps_stop_where_asked(models, text, steps):
    given = {"model": str(models / "llama"), "dataset": str(text), "target_tokens": 60, "steps": steps}
    plan = make_plan(replace(defaults(given), seq_len=24))
    assert plan.steps == steps


def test_micro_batches_visit_every_row_each_pass_and_can_be_asked_in_any_order(tokenizer):
    blocks = np.arange(22).reshape(11, 2)
    batches = MicroBatches(Source("", blocks, blocks, 22), 4, 6, seed=3)
    in_order = [batches[i].copy() for i in range(6)]
    assert [len(batch) for batch in in_order] == [4, 4, 3, 4, 4, 3]
    for turn in (in_order[:3], in_order[3:]):
        assert sorted(np.concatenate(turn)[:, 0]) == sorted(blocks[:, 0])
    assert any((a != b).any() for a, b in zip(in_order[:2], in_order[3:5], strict=True))  # another order
    for number in (5, 0, 3):
        assert np.array_equal(batches[number], in_order[number])


def test_held_out_loss_is_evaluate_loss_on_blocks_and_weighs_examples_by_targets(tiny_llama):
    rng = np.random.default_rng(0)
    blocks = rng.integers(3, 97, (5, 16))
    source = Source("", blocks, blocks, 80)
    assert held_out_loss(tiny_llama, source, 2) == pytest.approx(evaluate_loss(tiny_llama, blocks), rel=1e-6)
    rows = [rng.integers(3, 97, n).tolist() for n in (5, 16, 9)]
    losses = [next_token_loss(tiny_llama(torch.tensor([r])).logits, torch.tensor([r])).item() for r in rows]
    expected = sum(loss * (len(r) - 1) for loss, r in zip(losses, rows, strict=True)) / sum(len(r) - 1 for r in rows)
    examples = [{"input_ids": r, "labels": r} for r in rows]
    assert held_out_loss(tiny_llama, Source("", examples, examples, 30), 2) == pytest.approx(expected, rel=1e-5)


def test_sources(tmp_path, tokenizer, text):
    """A text, WikiText files, shards and records: what is trained on and what is held out do not overlap."""
    count = len(tokenizer(TEXT)["input_ids"])
    plain = read_source(str(text), tokenizer, 16)
    assert 0.85 * count < plain.tokens <= 0.9 * count
    assert 0.05 * count < sum(len(row["input_ids"]) for row in plain.held_out) < 0.15 * count  # the tail included
    assert len(read_source(str(text), tokenizer, 16, max_train=3, max_eval=2).train) == 3

    assert (
        main(
            [
                "prepare",
                "--input",
                str(text),
                "--output",
                str(tmp_path / "s"),
                "--tokenizer",
                _saved(tokenizer, tmp_path),
            ]
        )
        == 0
    )
    shards = read_source(str(tmp_path / "s"), tokenizer, 16)
    ids = np.concatenate([shards.train[i] for i in range(len(shards.train))])
    assert np.array_equal(ids, tokenizer(TEXT)["input_ids"][: len(ids)])

    wiki = tmp_path / "wiki"
    wiki.mkdir()
    for split in ("train", "valid"):
        (wiki / f"wiki.{split}.raw").write_text("".join(f" = {split} {n} = \n words of it \n" for n in range(8)))
    assert tokenizer.decode(read_source(str(wiki), tokenizer, 8).train[0]).startswith(" = train 0")
    assert tokenizer.decode(read_source(str(wiki), tokenizer, 8).held_out[0]["input_ids"]).startswith(" = valid")

    records = tmp_path / "r.jsonl"
    rows = [{"instruction": f"Say {n}", "input": "", "output": f"It is {n}."} for n in range(30)]
    records.write_text("\n".join(map(json.dumps, rows)))
    answered = read_source(str(records), tokenizer, 128)
    assert (len(answered.train), len(answered.held_out)) == (27, 3)
    labels = [label for label in answered.train[4]["labels"] if label != -100]
    assert tokenizer.decode(labels).strip().startswith("It is 4.")

    records.write_text(records.read_text() + "\n{broken")
    assert "; 1 malformed left out, such as " in read_source(str(records), tokenizer, 128).what
    (tmp_path / "parts").mkdir()
    records.rename(tmp_path / "parts" / "train.jsonl")
    (tmp_path / "parts" / "test.jsonl").write_text(json.dumps(rows[0]))
    parts = read_source(str(tmp_path / "parts"), tokenizer, 128)  # the test part is not read
    assert (len(parts.train), len(parts.held_out)) == (27, 3)


def _saved(tokenizer, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    LlamaForCausalLM(LlamaConfig(**shape, vocab_size=len(tokenizer))).save_pretrained(tmp_path / "tok")
    tokenizer.save_pretrained(tmp_path / "tok")
    return str(tmp_path / "tok")


def test_shards_of_another_tokenizer_are_refused(models, capsys):
    folder = models / "shards"
    folder.mkdir()
    for split in ("train", "val"):
        np.save(folder / f"{split}_00000.npy", np.full(100, 40_000, dtype=np.uint16))
    assert run(models, folder) == 2
    assert "tokenised for another model" in capsys.readouterr().err


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


# --- qlora ---


def test_qlora_trains_on_a_base_in_four_bits(models, text, capsys):
    """The adapter gets gradients after an evaluation too, and the frozen weights are stored in 4 bits."""
    pytest.importorskip("bitsandbytes")

    assert run(models, text, "--mode", "qlora", "--steps", 12, "--lr", 1e-2, "--eval-every", 4) == 0
    records = read_log(models / "run" / "log.jsonl")
    assert min(record.norm for record in records) > 1e-3
    assert records[-1].loss < records[0].loss - 0.1
    settings = replace(defaults({"mode": "qlora", "model": str(models / "llama")}), targets=("q_proj",))
    base = load_base(settings, models)
    assert base.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
    assert base.model.layers[0].mlp.up_proj.weight.numel() == 64 * 32 // 2
    settings = replace(settings, model=str(models / "gpt2"))
    assert load_base(settings, models).transformer.h[0].attn.c_attn.weight.numel() == 96 * 32 // 2


# --- the memory estimate ---


@pytest.mark.parametrize("shape", ["modern-1m", "tiny-gpt", "gpt2"])
@pytest.mark.parametrize("mode", ["full", "lora", "butterfly"])
def test_activations_by_formula_are_those_that_torch_keeps(shape, mode):
    """Every tensor that autograd saves is counted once; the formula is within 15 % of their bytes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from course_lib.models.huggingface import config_settings

    config = replace(CONFIGS[shape], vocab_size=64, num_hidden_layers=4, max_position_embeddings=64)
    given = config_settings(config) | {"bos_token_id": None, "eos_token_id": None}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(given.pop("model_type"), **given))
    targets = ("c_attn",) if shape != "modern-1m" else ("q_proj", "v_proj")
    adapt(model, replace(defaults({"mode": mode}), targets=targets)).train()
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def count(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    tokens = torch.randint(0, 64, (4, 48))
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        next_token_loss(model(tokens).logits, tokens)
    measured = sum(size for size, _ in kept.values()) - 4 * 47 * 64 * 4  # without the log-softmax
    formula = 4 * tokens.numel() * 4 * block_elements(model, mode)
    assert formula == pytest.approx(measured, rel=0.15)


PEAK = """
import sys, torch
from dataclasses import replace
from transformers import AutoConfig, AutoModelForCausalLM
from course_lib.finetuning.model import adapt
from course_lib.finetuning.settings import defaults
from course_lib.finetuning.memory import estimate_memory
from course_lib.models.config import CONFIGS
from course_lib.models.huggingface import config_settings
from course_lib.training import Trainer
from course_lib.training.memory import peak_memory

torch.set_num_threads(1)
mode = sys.argv[1]
def build(config):
    given = config_settings(config) | {"bos_token_id": None, "eos_token_id": None}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(given.pop("model_type"), **given))
    return adapt(model, replace(defaults({"mode": mode}), targets=("q_proj", "v_proj")))
def step(model, rows, time):
    tokens = torch.randint(0, 64, (rows, time))
    Trainer(model, lr=1e-4, log_every=0).train([tokens, tokens])
cpu = torch.device("cpu")
small = replace(CONFIGS["modern-1m"], vocab_size=64, num_hidden_layers=1)
step(build(small), 2, 8)
before = peak_memory(cpu)
model = build(CONFIGS["modern-15m"])
step(model, 8, 128)
estimate = estimate_memory(model, tokens=8 * 128, dtype="float32", mode=mode)
print((peak_memory(cpu) - before) / estimate.total)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak counts what another allocator holds back")
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_the_estimate_is_within_a_quarter_of_a_process(mode):
    """Measured with every large tensor given back to the system as soon as it is freed."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PEAK, mode]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    assert 0.8 < float(done.stdout) < 1.25


def test_checkpointed_and_half_precision_estimates_are_smaller():
    settings = defaults({"model": "modern-5m", "mode": "full"})
    model = shape_of(settings, type("Tokenizer", (), {"vocab_size": 64})())
    plain, recomputed, half = (
        estimate_memory(model, tokens=512, dtype=dtype, mode="full", checkpoint=checkpoint)
        for dtype, checkpoint in [("float32", False), ("float32", True), ("bfloat16", False)]
    )
    assert recomputed.activations < plain.activations / 3
    assert half.activations == plain.activations / 2
    count = sum(p.numel() for p in model.parameters())
    assert (plain.weights, plain.gradients, plain.moments) == (4 * count, 4 * count, 8 * count)


# --- the real model ---


@pytest.mark.slow
@pytest.mark.weights
def test_lora_on_smollm2_end_to_end(tmp_path, capsys):
    """Three steps on the bundled text lower the held-out loss; compare shows base and adapter."""
    options = ["--steps", "3", "--batch-size", "2", "--accumulate", "1", "--seq-len", "48", "--lr", "2e-3"]
    assert main(["train", "--output", str(tmp_path / "keeper"), *options]) == 0
    printed = capsys.readouterr().out
    assert "model.layers.*.self_attn.q_proj: +9,216 trainable each, 30 layers: +276,480" in printed
    assert "trainable: 460,800 of 134,515,008 (0.34 %)" in printed
    summary = json.loads((tmp_path / "keeper" / "summary.json").read_text())
    assert summary["held_out_loss_after"] < summary["held_out_loss_before"]
    shown = ["compare", "--adapter", str(tmp_path / "keeper"), "--samples", "1", "--max-new-tokens", "8"]
    assert main(shown) == 0
    text = capsys.readouterr().out
    assert "BASE MODEL" in text
    assert "SIDE BY SIDE" in text


def test_the_names_that_the_command_lists_are_those_of_the_trainer():
    """They are written twice, so that `course --help` need not import torch."""
    assert tuple(training.SCHEDULES) == SCHEDULES
    assert tuple(BYTES) == DTYPES


@pytest.mark.slow
def test_under_torchrun_two_processes_give_the_losses_of_one(models, text, parity):
    """The same global batch: rows shared out, the last batch of a pass too small for both; the first process alone
    prints and writes, and a second run in the folder is refused; --resume goes on."""
    command = ["train", "--model", models / "llama", "--dataset", text, "--seq-len", 32, "--lr", 1e-2, "--steps", 12]
    command += ["--eval-every", 5, "--batch-size", 3, "--accumulate", 2, "--checkpoint-every", 6, "--log-every", 6]
    assert main(list(map(str, [*command, "--threads", 1, "--output", models / "alone"]))) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launcher += ["-m", "course_lib.cli", *map(str, command), "--output", str(models / "together")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(launcher, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("trainable: ") == done.stdout.count("held-out loss before") == 1
    assert [line.split(" | ")[0] for line in done.stdout.splitlines() if line.startswith("step ")] == [
        "step 0",
        "step 4",  # evaluated
        "step 6",
        "step 9",
        "step 11",
    ]
    assert "shared out to 2 processes" in done.stdout
    alone, together = (read_log(models / name / "log.jsonl") for name in ("alone", "together"))
    rows = [len(batch) for batch in _batches(models / "llama", text)]
    assert 1 in rows, "the last batch of a pass is to have one row: none for the second process"
    why = "float32: gradients and losses are added in another order; the issue asks for 1e-5"
    for what in ("loss", "norm", "eval_loss"):
        ours, theirs = ([getattr(r, what) for r in records if getattr(r, what)] for records in (together, alone))
        parity.close(f"course train under torchrun, {what}", "one process, same global batch", ours, theirs, 1e-5, why)
    assert [r.tokens for r in together] == [r.tokens for r in alone]
    names = [sorted(path.name for path in (models / name).rglob("*")) for name in ("alone", "together")]
    assert names[0] == names[1]
    before = (models / "together" / "adapter_model.safetensors").read_bytes()
    again = subprocess.run([*launcher, "--resume"], capture_output=True, text=True, timeout=200, env=environment)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (models / "together" / "adapter_model.safetensors").read_bytes() == before


def _batches(model, text):
    plan = make_plan(replace(defaults({"model": str(model), "dataset": str(text)}), seq_len=32, batch_size=3))
    return (plan.batches[number] for number in range(plan.batches.per_pass))


def test_defaults_are_the_guides():
    lora, full, fly = (defaults({"mode": mode}) for mode in ("lora", "full", "butterfly"))
    assert (lora.rank, lora.alpha, lora.lr, lora.steps, lora.accumulate, lora.floor) == (8, 16, 3e-4, 500, 4, 0.1)
    assert (full.lr, full.epochs, full.steps) == (5e-5, 1.0, None)
    assert (fly.lr, fly.stages) == (1e-4, 6)
    assert (lora.keep * lora.checkpoint_every, full.keep) == (500, 2)  # all of a default run's, as the guide has it
    with pytest.raises(CourseError, match="choose from"):
        defaults({"mode": "prefix"})
