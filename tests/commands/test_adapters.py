"""`course merge`, `course adapters` and `course compare` on tiny models."""

import json
import math
import re

import pytest
import torch
from torch import nn

from course_lib.adapters import inject_butterfly, inject_lora, load_adapter, lora_layers, save_adapter
from course_lib.adapters.files import describe, layer_lines
from course_lib.cli import main
from course_lib.commands.compare import MARK
from course_lib.evaluation.compare_adapters import Sampling, compare_adapters
from course_lib.finetuning.export import exported_config


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(["<pad>", "<bos>", "<eos>", *letters])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


@pytest.fixture
def base(tmp_path, tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": len(tokenizer)}
    config = LlamaConfig(**shape, max_position_embeddings=128, initializer_range=0.2, **ids)  # weights that matter
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def loaded(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture
def adapter(base):
    """adapter(name, size) saves a LoRA adapter with random B of that size."""

    def make(name, size=0.3, **options):
        model = loaded(base)
        inject_lora(model, ["q_proj", "v_proj"], rank=4, **options)
        for _, layer in lora_layers(model):
            nn.init.normal_(layer.B, std=size)
        save_adapter(model, base.parent / "runs" / name, str(base))
        return base.parent / "runs" / name

    return make


def course(*arguments):
    return main([str(argument) for argument in arguments])


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
        "holds no adapter": ["--adapter", tmp_path / "nowhere", "--output", tmp_path / "m"],
        "no such": ["--base", "no such model", "--adapter", folder, "--output", tmp_path / "m"],
    }
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


def test_list_finds_all_and_names_the_damaged(base, adapter, capsys):
    first = adapter("a")
    adapter("deep/b", rslora=True)
    broken = base.parent / "runs" / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{")
    assert course("adapters", "list", base.parent / "runs") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert re.search(r"runs/a +lora rank 4 alpha 16 +q_proj v_proj +\S+base +1,024 ", lines[1])  # 2 * 2 * 4 * (32 + 32)
    assert lines[1].endswith(f"{(first / 'adapter_model.safetensors').stat().st_size:,}")
    assert "damaged" in lines[2]
    assert "rslora" in lines[3]


def test_list_refuses_a_folder_without_any(tmp_path, capsys):
    assert course("adapters", "list", tmp_path) == 2
    assert "no adapter below" in capsys.readouterr().err
    assert course("adapters", "list", tmp_path / "nowhere") == 2


def test_info_gives_the_size_of_each_layers_change(adapter, capsys):
    folder = adapter("a")
    assert course("adapters", "info", folder) == 0
    printed = capsys.readouterr().out
    assert "lora rank 4 alpha 16, 1,024 parameters" in printed
    model = loaded(json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"])
    load_adapter(model, folder)
    for name, layer in lora_layers(model):
        assert f"  {name}: 32 x 32, +256, change {layer.delta().norm().item():.4g}" in printed


def test_a_butterflys_angles_are_described():
    angles = torch.tensor([0.3, -0.3])
    lines = layer_lines({"peft_type": "BUTTERFLY"}, {"base_model.model.h.0.c_attn.butterfly.angles": angles})
    assert lines == {"h.0.c_attn": "+2 angles, RMS 0.3 rad"}
    assert describe({"peft_type": "BUTTERFLY", "stages": 8, "block_size": 256}) == "butterfly 8 stages block 256"


def test_an_adapter_that_peft_saved(base, tmp_path, capsys):
    from peft import LoraConfig, get_peft_model

    peft = get_peft_model(loaded(base), LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    peft.save_pretrained(tmp_path / "p")
    assert course("adapters", "info", tmp_path / "p") == 0
    assert "lora rank 2 alpha 6, 256 parameters" in capsys.readouterr().out
    assert course("compare", "--adapter", tmp_path / "p", "--base", base, "--samples", 1, "--max-new-tokens", 3) == 0


# --- compare ---


def test_compare_is_seeded_and_the_base_is_the_base(base, adapter, capsys):
    folder = adapter("a", size=1.0)
    command = ["compare", "--adapter", folder, "--prompt", "Storm", "--samples", 2, "--max-new-tokens", 8]
    outputs = []
    for seed in (0, 0, 1):
        assert course(*command, "--seed", seed) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]
    assert re.findall(r"^=+\n(.*)\n=+$", outputs[0], re.M) == ["BASE MODEL", "ADAPTER a", "SIDE BY SIDE"]
    assert all(character.isprintable() or character == "\n" for character in outputs[0])
    assert outputs[0].count("[Sample 2]") == 3


def test_each_side_says_what_it_says_alone(base, adapter, tmp_path, capsys):
    """Two adapters on one base, switched: each gives what it gives by itself, and the page holds the same texts."""
    from transformers import AutoTokenizer

    from course_lib.inference import complete

    folders = [adapter("a", size=1.0), adapter("deep/a", size=0.5)]
    (tmp_path / "prompts.txt").write_text("At dawn\n\nThe lamp\n")
    result = compare_adapters(str(base), folders, ["At dawn", "The lamp"], Sampling(2, 6, seed=3))
    assert list(result.completions) == ["base", "a", "a_2"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    for name, folder in [("base", None), ("a", folders[0]), ("a_2", folders[1])]:
        alone = loaded(base)
        if folder:
            load_adapter(alone, folder)
        expected = [
            text
            for number, prompt in enumerate(["At dawn", "The lamp"])
            for text in complete(alone, tokenizer, [prompt] * 2, 6, temperature=0.8, seed=3 + number)
        ]
        assert result.completions[name] == expected
    assert len({tuple(texts) for texts in result.completions.values()}) == 3


def test_butterflies_take_turns(base, adapter, tmp_path):
    """One base has one butterfly at a time: each of two, and a LoRA adapter between them, gives what it gives alone."""
    from transformers import AutoTokenizer

    from course_lib.inference import complete

    lora = adapter("a", size=1.0)
    folders, alone = [tmp_path / "first", lora, tmp_path / "second"], []
    tokenizer = AutoTokenizer.from_pretrained(base)
    for folder in [None, *folders]:
        model = loaded(base)
        if folder == lora:
            load_adapter(model, lora)
        elif folder:
            inject_butterfly(model, ["q_proj", "v_proj", "o_proj"], stages=3)
            for name, parameter in model.named_parameters():
                if name.endswith("angles"):
                    nn.init.normal_(parameter, std=2.0)
            save_adapter(model, folder, str(base))
        alone.append(complete(model, tokenizer, ["At dawn"], 12, temperature=0.8, seed=0))
    together = compare_adapters(str(base), folders, ["At dawn"], Sampling(1, 12)).completions
    assert list(together) == ["base", "first", "a", "second"]
    assert list(together.values()) == alone
    assert len({texts[0] for texts in alone}) == 4


def test_an_adapter_that_changes_nothing_is_said_to(base, adapter, capsys):
    command = ["compare", "--samples", 1, "--max-new-tokens", 6, "--adapter", adapter("a", size=1.0)]
    assert course(*command, "--adapter", adapter("zero", size=0.0)) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "says what the base says" in line] == [
        "zero says what the base says: train it for more --steps, with a higher --lr or --rank."
    ]


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


def test_the_page_escapes_everything(base, adapter, tmp_path, capsys):
    page, attack = tmp_path / "page.html", "<script>alert('x')</script> & so"
    command = ["compare", "--adapter", adapter("a"), "--prompt", attack, "--samples", 1, "--max-new-tokens", 4]
    assert course(*command, "--html", page) == 0
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; so" in text
    assert "<th>base</th><th>a</th>" in text
    assert course(*command, "--html", page) == 0  # our own page may be written again
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    assert course(*command, "--html", tmp_path / "mine.html") == 2
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"
    assert course(*command, "--html", tmp_path / "mine.html", "--force") == 0
    assert MARK in (tmp_path / "mine.html").read_text()


def test_temperature_zero_is_one_sample(base, adapter, capsys):
    assert course("compare", "--adapter", adapter("a"), "--temperature", 0, "--max-new-tokens", 3) == 0
    printed = capsys.readouterr().out
    assert "[Sample 1] " in printed
    assert "[Sample 2]" not in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--samples", 0], "at least 1"),
        (["--temperature", -1], "at least 1"),
        (["--prompt", " "], "empty"),
        (["--prompts", "nowhere.txt"], "nowhere.txt"),
        (["--chat"], "no chat template"),
        (["--base", "nowhere at all"], "nowhere at all"),
    ],
)
def test_compare_refuses_in_a_sentence(base, adapter, capsys, arguments, said):
    assert course("compare", "--adapter", adapter("a"), *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_the_shown_norm_is_the_formulas():
    tensors = {"base_model.model.x.lora_A.weight": torch.eye(2), "base_model.model.x.lora_B.weight": 3 * torch.eye(2)}
    line = layer_lines({"peft_type": "LORA", "r": 2, "lora_alpha": 4}, tensors)["x"]
    assert line.endswith(f"change {2 * 3 * math.sqrt(2):.4g}")


@pytest.mark.parametrize("command", ["train", "prepare", "merge", "compare"])
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert len(re.findall(rf"^  course (data )?{command} ", shown, re.M)) >= 2
