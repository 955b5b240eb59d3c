"""`course align run`: our LoRA and Trainer against PEFT in a plain loop, through files, from one start."""

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from course_lib.cli import main
from course_lib.data import style_corpus
from course_lib.models.pretrained import DEFAULT
from course_lib.parity.compare import compare_runs
from course_lib.parity.recipes import RECIPES, SPLIT_LAYERS, AlignSettings
from course_lib.parity.reference import run
from course_lib.parity.runs import read_run
from course_lib.parity.schedules import torch_schedule
from course_lib.training import SCHEDULES

ROOM = "alignment"
TOLERANCE = 1e-4  # the 0.01 % that the chapter promises
ROUNDING = "float32: the same sums in another order, fed back through {} updates"


def save_tiny(model, folder):
    """A folder as `--model` takes it: the model, and a tokenizer of single characters."""
    characters = sorted(set(style_corpus()))
    vocabulary = {character: number for number, character in enumerate(["<unk>", *characters][:97])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(style_corpus()[:20000])
    return str(path)


@pytest.fixture
def tiny_gpt2(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=97, n_positions=64, n_embd=24, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
    assert config.resid_pdrop == 0.1, "the model's own dropout must be turned off by the run"
    return save_tiny(GPT2LMHeadModel(config), tmp_path / "gpt2")


@pytest.fixture
def llama(tiny_llama, tmp_path):
    return save_tiny(tiny_llama, tmp_path / "llama")


@pytest.fixture
def gemma(tmp_path):
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return save_tiny(Gemma3ForCausalLM(config), tmp_path / "gemma")


def both(settings, folder):
    return compare_runs(*(read_run(run(settings, folder / name, ours=name == "ours")) for name in ("ours", "peft")))


def largest(comparison, part):
    return max(difference.relative for difference in comparison.parts[part])


def check(comparison, parity, what, steps):
    """Losses, gradients and final weights (tensor by tensor, norm of the difference to norm) within the promise."""
    assert comparison.notes == []
    assert comparison.unmatched == []
    losses = [(d.a, d.b) for d in comparison.parts["loss"]]
    assert len(losses) == steps
    assert losses[-1][0] < losses[0][0], "a run that learns nothing proves nothing"
    rounding = ROUNDING.format(steps)
    for part, name in (("loss", f"loss, {steps} steps"), ("gradients", "gradients"), ("weights", "weights at the end")):
        parity.within(f"{what}: {name}", "PEFT", largest(comparison, part), TOLERANCE, rounding, "relative")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("ratio", "steps"), [(0, 30), (0.03, 30), (0.2, 30), (0.9, 3)])
def test_torchs_schedules_equal_ours(schedule, ratio, steps):
    settings = AlignSettings("none", steps=steps, warmup_ratio=ratio, schedule=schedule)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=settings.lr)
    theirs = torch_schedule(optimizer, settings)
    for step in range(steps):
        ours = settings.lr * SCHEDULES[schedule](step, steps, settings.warmup_steps)
        assert theirs.get_last_lr()[0] == pytest.approx(ours, rel=1e-12)
        optimizer.step()
        theirs.step()


def test_gpt2_with_accumulation(tiny_gpt2, text, tmp_path, parity):
    settings = AlignSettings(
        tiny_gpt2,
        text,
        target_modules=("c_attn",),
        steps=30,
        batch_size=2,
        grad_accum_steps=3,
        seq_len=32,
        lr=5e-3,
        dump_gradients=3,
    )
    check(both(settings, tmp_path), parity, "GPT-2 c_attn, 3 micro-batches a step", 30)


def test_llama(llama, text, tmp_path, parity):
    settings = AlignSettings(
        llama,
        text,
        target_modules=SPLIT_LAYERS["all"],
        rank=4,
        steps=30,
        batch_size=4,
        seq_len=32,
        lr=5e-3,
        dump_gradients=3,
    )
    check(both(settings, tmp_path), parity, "Llama, every linear layer", 30)


def test_lora_dropout_draws_the_same_masks(llama, text, tmp_path, parity):
    settings = AlignSettings(
        llama, text, target_modules=SPLIT_LAYERS["light"], lora_dropout=0.3, steps=5, batch_size=2, seq_len=32
    )
    comparison = both(settings, tmp_path)
    parity.within(
        "LoRA dropout 0.3: loss, 5 steps",
        "PEFT",
        largest(comparison, "loss"),
        TOLERANCE,
        "the same masks: drawn in the order of the layers from one seed",
        "relative",
    )


def test_gpt2_all_weights_from_the_command_line(tiny_gpt2, text, tmp_path, parity):
    options = "--steps 10 --batch 4 --seq-len 32 --lr 1e-3 --dump-gradients 2".split()
    common = ["align", "run", "gpt2-full", "--model", tiny_gpt2, "--data", text, *options]
    assert main([*common, "--output", str(tmp_path / "ours"), "--ours"]) == 0
    assert main([*common, "--output", str(tmp_path / "theirs")]) == 0
    comparison = compare_runs(read_run(tmp_path / "ours"), read_run(tmp_path / "theirs"))
    assert (tmp_path / "ours" / "model.safetensors").is_file()
    check(comparison, parity, "GPT-2, all weights", 10)


def test_gemma_from_the_command_line(gemma, text, tmp_path, parity):
    options = "--steps 10 --seq-len 32 --lr 5e-3 --dump-gradients 3".split()
    common = ["align", "run", "gemma-lora", "--model", gemma, "--data", text, *options]
    assert main([*common, "--output", str(tmp_path / "ours"), "--ours"]) == 0
    assert main([*common, "--output", str(tmp_path / "theirs")]) == 0
    tensors = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    assert len(tensors) == 2 * 4 * 2  # layers, q/k/v/o, A and B
    assert main(["align", "compare", str(tmp_path / "ours"), str(tmp_path / "theirs"), "--tolerance", "0.0001"]) == 0
    comparison = compare_runs(read_run(tmp_path / "ours"), read_run(tmp_path / "theirs"))
    check(comparison, parity, "Gemma 3, q/k/v/o", 10)


@pytest.mark.slow
@pytest.mark.weights
def test_smollm2(text, tmp_path, parity):
    settings = AlignSettings(
        DEFAULT,
        text,
        target_modules=SPLIT_LAYERS["light"],
        steps=8,
        batch_size=2,
        seq_len=32,
        lr=2e-3,
        dump_gradients=2,
    )
    check(both(settings, tmp_path), parity, "SmolLM2-135M q/v, batch 2 x 32", 8)


def test_the_recipes_are_the_seeds_table():
    gpt2, gemma = RECIPES["gpt2-lora"], RECIPES["gemma-lora"]
    assert (gpt2.rank, gpt2.alpha, gpt2.target_modules) == (8, 16, ("c_attn", "attn.c_proj"))
    assert (gpt2.batch_size, gpt2.seq_len, gpt2.lr, gpt2.lora_dropout, gpt2.schedule, gpt2.max_grad_norm) == (
        8, 128, 2e-4, 0, "cosine", 1.0,
    )  # fmt: skip
    assert (gemma.rank, gemma.alpha, gemma.target_modules) == (8, 32, ("q_proj", "k_proj", "v_proj", "o_proj"))
    assert (gemma.batch_size, gemma.seq_len, gemma.lr, gemma.warmup_ratio, gemma.schedule) == (
        4,
        256,
        2e-4,
        0.03,
        "linear",
    )
