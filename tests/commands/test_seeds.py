"""The commands of the programs that this course took over: their own words work, only the program's name is ours.

Training that takes long is run with --dry-run, or with fewer --steps at the end of its words. Serving is in
test_serve.py, and `speedrun.sh` with its modes in tests/setup/test_entry_points.py.
"""

import json
import re
import shlex

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import TEXT

from course_lib.adapters import (
    apply_lora_to_model,
    load_lora_weights,
    lora_layers,
    merge_all_lora_weights,
    save_lora_weights,
)
from course_lib.cli import main
from course_lib.data.shards import TokenShards
from course_lib.models.config import DecoderConfig
from course_lib.models.pretrained import load

# python pytorch_alignment/RECIPE_finetune.py is course align run RECIPE
ALIGN = {
    "GPT-2 LoRA": """
course align run gpt2-lora \
  --data_dir data/wikitext2/wikitext-2-raw \
  --pretrained_dir gpt2_lora_finetune/pretrained/gpt2 \
  --lora_out pytorch_runs/gpt2_lora \
  --epochs 1 --batch_size 8 --grad_accum_steps 1 --seq_len 128 \
  --rank 8 --alpha 16 --lr 2e-4 --lora_dropout 0.0""",
    "GPT-2 Medium LoRA": """
course align run gpt2-lora \
  --pretrained_dir gpt2_lora_finetune/pretrained/gpt2-medium \
  --lora_out pytorch_runs/gpt2_medium_lora \
  --batch_size 4 --epochs 1""",
    "GPT-2 full": """
course align run gpt2-full \
  --data_dir data/wikitext2/wikitext-2-raw \
  --pretrained_dir gpt2_lora_finetune/pretrained/gpt2 \
  --output_dir pytorch_runs/gpt2_full \
  --epochs 1 --batch_size 4 --seq_len 128""",
    "Gemma LoRA": """
course align run gemma-lora \
  --model_dir gemma-3-270m \
  --data_dir data/wikitext2/wikitext-2-raw \
  --output_dir pytorch_runs/gemma_270m_lora \
  --epochs 1 --batch 4 --grad_accum 1 --seq_len 256 \
  --learning_rate 2e-4 --warmup_ratio 0.03 \
  --target_mode full --lora_r 8 --lora_alpha 32 \
  --torch_dtype float32""",
    "Gemma 1B LoRA": """
course align run gemma-lora \
  --model_dir gemma-3-1b \
  --batch 2 --grad_accum 2 \
  --output_dir pytorch_runs/gemma_1b_lora""",
    "100 steps": "course align run gpt2-lora --steps 100 --lora_out pt_lora",
}

# python -m src.train and python -m src.train_dynamic are course train
TRAIN = {
    "baseline": """
course train \
  --dataset tinystories \
  --mode baseline \
  --output_dir outputs/baseline \
  --per_device_train_batch_size 8 \
  --per_device_eval_batch_size 8 \
  --learning_rate 5e-5 \
  --num_train_epochs 1 \
  --gradient_checkpointing""",
    "lora": """
course train \
  --dataset tinystories \
  --mode lora \
  --output_dir outputs/lora \
  --per_device_train_batch_size 16 \
  --max_train_samples 10000 \
  --max_eval_samples 1000 \
  --learning_rate 1e-4 \
  --lora_r 16 --lora_alpha 32 \
  --target_modules c_attn c_proj \
  --gradient_checkpointing""",
    "qlora": """
course train \
  --dataset tinystories \
  --mode qlora \
  --output_dir outputs/qlora \
  --per_device_train_batch_size 32 \
  --learning_rate 2e-4 \
  --gradient_checkpointing \
  --lora_r 16 --lora_alpha 32""",
    "butterfly": """
course train \
  --dataset tinystories \
  --mode butterfly \
  --output_dir outputs/butterfly \
  --max_train_samples 10000 \
  --max_eval_samples 1000 \
  --block_size 256 \
  --per_device_train_batch_size 4 \
  --learning_rate 1e-4 \
  --butterfly_stages 6 \
  --target_modules c_attn c_proj \
  --evaluation_strategy steps \
  --eval_steps 250 \
  --logging_steps 50""",
    "blockwise butterfly": """
course train \
  --dataset tinystories \
  --mode butterfly_block \
  --output_dir outputs/butterfly_block256 \
  --max_train_samples 10000 \
  --max_eval_samples 1000 \
  --block_size 256 \
  --per_device_train_batch_size 4 \
  --learning_rate 1e-4 \
  --butterfly_block_size 256 \
  --butterfly_stages 8 \
  --target_modules c_attn c_proj \
  --evaluation_strategy steps \
  --eval_steps 250 \
  --logging_steps 50""",
    "dynamic": """
course train \
  --dataset tinystories \
  --mode lora \
  --output_dir outputs/lora_dynamic \
  --per_device_train_batch_size 4 \
  --per_device_eval_batch_size 4 \
  --max_train_samples 10000 \
  --max_eval_samples 1000 \
  --block_size 256 \
  --target_tokens_per_step 512 \
  --learning_rate 1.5e-4 \
  --weight_decay 0.01 \
  --lora_r 16 \
  --lora_alpha 32 \
  --lora_dropout 0.05 \
  --num_train_epochs 1 \
  --log_interval 50 \
  --eval_interval 200 \
  --resume_from_checkpoint""",
    "no GPU": "course train --dataset wikitext2 --mode baseline --no_cuda",
    "half precision": "course train --dataset tinystories --mode lora --fp16 --target_modules c_attn",
    "bfloat16": "course train --dataset tinystories --mode lora --bf16",
}

# python -m src.benchmark_generation and python -m src.paged_attention
BENCHMARK = """
course bench generate \
  --model_path outputs/baseline \
  --prompt "Tell me a short story about robots." \
  --max_new_tokens 128"""
PAGED = """
course generate \
  --model_path distilgpt2 \
  --adapter_path outputs/lora_tuned \
  --prompt "Explain gravity to a kid:" \
  --max_new_tokens 80 \
  --page_size 64 \
  --max_pages 6 \
  --temperature 0.9 \
  --repetition_penalty 1.1"""

# What the table of the seed's key arguments and its examples promise of the plan.
PLANS = {
    "baseline": ["full: smollm2-135m-instruct", "effective 8 = 8 rows x 1", "learning rate 5.0e-05", "(1.0 passes)"],
    "lora": ["lora: distilgpt2", "rank 16, alpha 32", "effective 64 = 16 rows x 4", "transformer.h.*.attn.c_proj"],
    "qlora": ["qlora: smollm2-135m-instruct", "NF4", "effective 128 = 32 rows x 4", "learning rate 2.0e-04"],
    "butterfly": ["butterfly: distilgpt2", ", 6 stages", "rows of up to 256"],
    "blockwise butterfly": ["butterfly-block: distilgpt2", ", 8 stages in blocks of 256", "rows of up to 256"],
    "dynamic": ["until a step has 512 tokens", "rank 16, alpha 32", "documents of up to 256 tokens"],
    "no GPU": ["full: smollm2-135m-instruct", "data: wikitext2"],
    "half precision": ["lora: distilgpt2", "transformer.h.*.attn.c_attn"],
    "bfloat16": ["lora: smollm2-135m-instruct"],
}

FINAL = "lora_checkpoints/lora_final.pt"
COMPARE = f"course compare --lora {FINAL}"  # python -m scripts.compare_outputs
# python -m scripts.finetune_lora is course train
GUIDE = [
    "course train --data brainrot_data --steps 500",
    "course train --data brainrot_data --steps 500 --rank 8 --lr 3e-4",
    "course train --model gpt2 --weights data/gpt2_weights.pt --rank 8 --steps 500",
    "course train --data combined_data --steps 1000",
    "course train --data brainrot_data --output lora_brainrot --steps 500",
    "course train --data shakespeare_data --output lora_shakespeare --steps 500",
    "course train --rank 4",
    "course train --lr 1e-4",
    "course train --steps 1000",
    "course train --lr 5e-4",
    "course train --rank 16",
    "course train --steps 250",
    "course train --data my_data --steps 500",
]


def command(line, *more):
    """The exit status of a command as it stands in a text, line ends and all."""
    program, *arguments = shlex.split(line)
    assert program == "course"
    return main([*arguments, *more])


@pytest.mark.parametrize("name", ALIGN)
def test_reference_runs(workspace, capsys, name):
    long = name not in ("GPT-2 LoRA", "Gemma LoRA")
    assert command(ALIGN[name], *(["--dry-run"] if long else [])) == 0
    printed = capsys.readouterr().out
    if long:
        return
    folder = workspace / printed.splitlines()[-1].split(":")[0]
    settings = json.loads((folder / "run.json").read_text())["settings"]
    expected = {"rank": 8, "seq_len": 128, "alpha": 16, "lr": 2e-4, "batch_size": 8, "epochs": 1}
    if name == "Gemma LoRA":
        expected |= {"seq_len": 256, "alpha": 32, "batch_size": 4, "warmup_ratio": 0.03, "dtype": "float32"}
        assert settings["target_modules"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert expected.items() <= settings.items()
    assert (folder / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("name", TRAIN)
def test_training(workspace, capsys, name):
    assert command(TRAIN[name], "--dry-run") == 0
    printed = capsys.readouterr().out
    for promised in PLANS[name]:
        assert promised in printed
    assert not (workspace / "outputs").exists()


def test_the_dynamic_trainer_resumes_by_the_same_command(workspace, capsys):
    """ "pass --resume_from_checkpoint to continue from the latest checkpoint if a run is interrupted"."""
    assert command(TRAIN["dynamic"]) == 0
    assert "a new one begins" in capsys.readouterr().out
    log = (workspace / "outputs" / "lora_dynamic" / "log.jsonl").read_bytes()
    for checkpoint in sorted((workspace / "outputs" / "lora_dynamic" / "checkpoints").glob("step_*"))[-2:]:
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    assert command(TRAIN["dynamic"]) == 0
    again = (workspace / "outputs" / "lora_dynamic" / "log.jsonl").read_bytes()
    losses = [[json.loads(line)["loss"] for line in each.splitlines()] for each in (log, again)]
    assert losses[0] == losses[1]
    assert len(losses[0]) > 3


def test_the_cache_is_benchmarked_on_the_baseline(workspace, capsys):
    """Both sides with and without a cache, on the model that the seed's own command has trained."""
    assert command(TRAIN["baseline"], "--max-train-samples", "16") == 0
    capsys.readouterr()
    assert command(BENCHMARK, "--pairs", "1", "--threads", "1", "--weights", "float32") == 0
    figures = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    for side in ("ours float32", "transformers float32"):
        for speed in (f"{side}, tok/s", f"{side}, cache off, tok/s"):
            assert float(figures[speed].replace(",", "")) > 0


def test_the_paged_demo(workspace, capsys):
    assert command(TRAIN["lora"], "--output", "outputs/lora_tuned", "--steps", "2", "--batch-size", "4") == 0
    capsys.readouterr()
    assert command(PAGED) == 0
    text, _, report = capsys.readouterr().out.rstrip("\n").rpartition("\n\n")
    assert text.startswith("Explain gravity to a kid:")
    assert re.fullmatch(r"\d+ tokens? in [\d.]+ s: [\d.]+ tokens/s, cache paged", report)


def test_the_guide_in_three_commands(workspace, capsys):
    """Prepare, train, compare, word by word; the training alone is cut short."""
    assert command("course prepare --input data/sampleBrainRot.txt --output brainrot_data") == 0
    ids = load("smollm2-135m-instruct")[1](TEXT)["input_ids"]
    shards = TokenShards(workspace / "brainrot_data", "train", 32), TokenShards(workspace / "brainrot_data", "val", 32)
    assert sum(shard.arrays[0].size for shard in shards) == len(ids)
    assert shards[0].arrays[0].size == int(0.9 * len(ids))
    capsys.readouterr()
    assert command(GUIDE[1], "--steps", "3") == 0
    printed = capsys.readouterr().out
    assert "trainable: " in printed
    assert "rank 8, alpha 16" in printed
    assert re.search(r"^step 0 \| loss [\d.]+ \| lr 3.0e-04 \| norm [\d.]+ \| \d+ ms \| \d+ tok/s$", printed, re.M)
    assert command(f"{COMPARE} --samples 5 --temperature 0.8") == 0
    shown, told = capsys.readouterr()
    assert f"note: there is no file {FINAL}: it stands for runs/lora-brainrot_data here" in told
    assert "Prompt: Once upon a time in" in shown
    assert re.search(r"^base +\| lora-brainrot_data$", shown, re.M)
    assert "[Sample 5]" in shown


def test_the_guides_names_in_a_runs_folder(workspace, capsys):
    """`--output lora_brainrot`, then its lora_final.pt and a checkpoint, in a command and in Python."""
    assert command("course prepare --input data/sampleBrainRot.txt --output brainrot_data") == 0
    assert command(GUIDE[4], "--model", "gpt2", "--steps", "2", "--checkpoint-every", "1", "--seq-len", "32") == 0
    for name, place in {"lora_final": "", "lora_step_00001": "/checkpoints/step_000001"}.items():
        capsys.readouterr()
        assert command(f"course compare --lora lora_brainrot/{name}.pt --samples 1 --max-new-tokens 2") == 0
        assert f"lora_brainrot/{name}.pt: it stands for lora_brainrot{place} here" in capsys.readouterr().err
    model, _ = load("gpt2")
    apply_lora_to_model(model, rank=8)
    load_lora_weights(model, "lora_brainrot/lora_final.pt")
    saved = load_file(workspace / "lora_brainrot" / "adapter_model.safetensors")
    ((name, layer),) = lora_layers(model)
    assert torch.equal(layer.B, saved[f"base_model.model.{name}.lora_B.weight"])
    assert layer.B.any()


def test_a_guides_name_that_no_run_has_is_refused(workspace, capsys):
    for name in (FINAL, "lora_checkpoints/lora_step_00250.pt", "elsewhere/lora_final.pt"):
        assert command(f"course compare --lora {name}") == 2
        assert f"There is no adapter {name}." in capsys.readouterr().err


@pytest.mark.parametrize("line", GUIDE)
def test_the_guides_training_commands(workspace, capsys, monkeypatch, line):
    for name in ("brainrot_data", "combined_data", "shakespeare_data", "my_data"):
        if name in line:
            assert command(f"course prepare --input data/my_text.txt --output {name} --train-ratio 0.9") == 0
    if "--weights" in line:
        _cache_weights(workspace, monkeypatch)
    capsys.readouterr()
    assert command(line, "--dry-run") == 0
    printed = capsys.readouterr().out
    words = shlex.split(line)
    steps = words[words.index("--steps") + 1] if "--steps" in words else "500"
    assert f"schedule: {int(steps):,} steps" in printed


def _cache_weights(workspace, monkeypatch):
    """The guide's own way: torch.save(model.state_dict(), 'data/gpt2_weights.pt'). GPT-2 is small here."""
    from course_lib.models.config import CONFIGS

    model, _ = load("gpt2")
    torch.save(model.state_dict(), workspace / "data" / "gpt2_weights.pt")
    shape = {"hidden_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 256}
    monkeypatch.setitem(CONFIGS, "gpt2", DecoderConfig("gpt2", vocab_size=model.config.vocab_size, **shape))


def test_missing_weights_are_said_at_once(workspace, capsys):
    assert command(GUIDE[2]) == 2
    assert "--weights data/gpt2_weights.pt: there is no such file" in capsys.readouterr().err


def test_weights_are_trained_on(workspace, capsys, monkeypatch):
    _cache_weights(workspace, monkeypatch)
    assert command(GUIDE[2], "--steps", "2", "--seq-len", "32") == 0
    base, _ = load(workspace / "runs" / "lora-keepers_log" / "base")
    expected, _ = load("gpt2")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(base.parameters(), expected.parameters(), strict=True))


@pytest.mark.parametrize("name", ["lora_final.pt", "lora_step_00250.pt", "lora_step_00100.pt"])
def test_the_guides_files_are_compared(workspace, capsys, name):
    """Files of save_lora_weights under the guide's names; the base is the one that they name."""
    model, _ = load("gpt2")
    apply_lora_to_model(model, rank=8)
    save_lora_weights(model, workspace / "lora_checkpoints" / name)
    capsys.readouterr()
    assert command(f"course compare --lora lora_checkpoints/{name} --samples 5 --temperature 0.8") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("gpt2 and its adapters")
    assert f"{name.removesuffix('.pt')} says what the base says" in shown  # B is still zero


def test_the_guides_merge(workspace, capsys):
    """Load, merge, torch.save; and the saved weights are trained on by `--weights`, being those of a plain model."""
    model, _ = load("gpt2")
    apply_lora_to_model(model, rank=8)
    save_lora_weights(model, workspace / "lora_checkpoints" / "lora_final.pt")
    load_lora_weights(model, workspace / "lora_checkpoints" / "lora_final.pt")
    merge_all_lora_weights(model)
    torch.save(model.state_dict(), "merged_brainrot_gpt2.pt")
    options = "--weights merged_brainrot_gpt2.pt --steps 1 --seq-len 32 --output merged_run"
    assert command(f"course train --model gpt2_lora_finetune/pretrained/gpt2 {options}") == 0
