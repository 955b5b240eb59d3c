"""`course compare`: what is drawn, how it is shown, which adapters go together."""

import json
import shutil

import pytest
import torch
from tiny_runs import course, loaded
from torch import nn

from course_lib.adapters import (
    apply_lora_to_model,
    inject_butterfly,
    load_adapter,
    lora_layers,
    save_adapter,
    save_lora_weights,
)
from course_lib.commands.compare import MARK, as_text
from course_lib.evaluation import Comparison
from course_lib.evaluation.compare_adapters import Sampling, compare_adapters


def test_compare_is_seeded_and_shows_each_text_once(base, adapter, capsys, monkeypatch):
    folder = adapter("a", size=1.0)
    command = ["compare", "--adapter", folder, "--prompt", "Storm", "--samples", 2, "--max-new-tokens", 8]
    outputs = []
    for seed in (0, 0, 1):
        assert course(*command, "--seed", seed) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]
    assert all(character.isprintable() or character == "\n" for character in outputs[0])
    assert outputs[0].count("Prompt: Storm") == outputs[0].count("[Sample 1]") == outputs[0].count("[Sample 2]") == 1


COMPARISON = Comparison(["At dawn"] * 2, {"base": ["one\x1b[2J", " "], "notes": ["two\nlines", "three"]})


def test_texts_stand_beside_each_other(monkeypatch):
    shown = as_text(COMPARISON, "gpt2", 2, width=60)
    assert shown.splitlines() == [
        "gpt2 and its adapters, side by side",
        "",
        "=" * 60,
        "Prompt: At dawn",
        "=" * 60,
        "",
        "[Sample 1]",
        f"{'base':28} | notes",
        f"{'-' * 28} | {'-' * 28}",
        f"{chr(92)}x1b[2J".join(["one", ""]).ljust(28) + " | two",
        f"{'':28} | lines",
        "",
        "[Sample 2]",
        f"{'base':28} | notes",
        f"{'-' * 28} | {'-' * 28}",
        f"{'(white space alone)':28} | three",
    ]


def test_a_narrow_terminal_shows_one_under_another():
    shown = as_text(COMPARISON, "gpt2", 2, width=30)
    assert "[Sample 1]\nbase:\n  one\\x1b[2J\nnotes:\n  two\n  lines" in shown


def test_the_terminals_width_counts(base, adapter, capsys, monkeypatch):
    command = ["compare", "--adapter", adapter("a", size=1.0), "--samples", 1, "--max-new-tokens", 30]
    for width in (50, 90):
        monkeypatch.setenv("COLUMNS", str(width))
        assert course(*command) == 0
        table = capsys.readouterr().out.split("[Sample 1]\n")[1].splitlines()
        assert table[0].split() == ["base", "|", "a"]
        assert len(table[1]) == width - 1 + width % 2  # two columns of equal width and the line between them


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
    assert "[Sample 1]" in printed
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
        (["--adapter", "runs/nowhere"], "There is no adapter runs/nowhere."),
    ],
)
def test_compare_refuses_in_a_sentence(base, adapter, capsys, arguments, said):
    assert course("compare", "--adapter", adapter("a"), *arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


# --- bases ---


def other_base(base, tmp_path):
    """A copy of the base with one weight changed."""
    model = loaded(base)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    shutil.copytree(base, tmp_path / "other")
    model.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def test_adapters_of_two_bases_are_refused(base, adapter, tmp_path, capsys):
    other = other_base(base, tmp_path)
    a, b = adapter("a"), adapter("b", base_name=other)
    assert course("compare", "--adapter", a, "--adapter", b, "--samples", 1) == 2
    told = capsys.readouterr()
    assert f"{a} was trained on {base}, and {b} on {other}. Compare adapters of one base at a time" in told.err
    assert told.out == ""
    assert course("compare", "--adapter", a, "--adapter", b, "--base", base, "--temperature", 0) == 0
    assert f"note: {b} was trained on {other}, and is put on {base} here" in capsys.readouterr().out
    assert course("merge", "--adapter", b, "--base", base, "--output", tmp_path / "m") == 0
    assert f"note: {b} was trained on {other}, and is merged into {base} here" in capsys.readouterr().out


def test_one_base_may_have_several_names(base, adapter, tmp_path, capsys):
    """The same folder by another path, and a copy of it, are the same base."""
    shutil.copytree(base, tmp_path / "copy")
    (tmp_path / "link").symlink_to(base)
    names = ["--adapter", adapter("a")]
    for name in ("copy", "link"):
        names += ["--adapter", adapter(name, base_name=tmp_path / name)]
    assert course("compare", *names, "--temperature", 0, "--max-new-tokens", 2) == 0
    assert "note:" not in capsys.readouterr().out


def test_an_adapter_that_names_no_base_takes_the_given_one(base, adapter, capsys):
    folder = adapter("a")
    config = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": None}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert course("compare", "--adapter", folder) == 2
    assert "does not say which model it belongs to: give --base" in capsys.readouterr().err
    assert course("compare", "--adapter", folder, "--base", base, "--temperature", 0) == 0


@pytest.mark.parametrize("name", ["/home/ada/models/base", r"C:\Users\ada\base", "../models/base"])
def test_a_base_on_another_machine(base, adapter, tmp_path, capsys, name):
    """The error names the adapter's file and the folder in it, and what it advises works."""
    folder = adapter("a", base_name=name)
    given = {
        "compare": ["--adapter", folder, "--samples", 1, "--temperature", 0, "--max-new-tokens", 2],
        "merge": ["--adapter", folder, "--output", tmp_path / "m"],
    }
    for command, arguments in given.items():
        assert course(command, *arguments) == 2
        told = capsys.readouterr()
        said = f"{folder / 'adapter_config.json'} names the base {name}, a folder that is not on this machine"
        assert f"{said}: give --base" in told.err
        assert told.err.count("\n") == 1
        assert course(command, *arguments, "--base", base) == 0
        assert f"note: {folder} was trained on {name}" in capsys.readouterr().out


# --- .pt files ---


def test_compare_and_merge_take_a_pt_file(base, tmp_path, capsys):
    """`--lora lora_final.pt`, as the guide has it, gives what the same adapter gives in PEFT's layout."""
    model = apply_lora_to_model(loaded(base), rank=4, use_rslora=True)
    for _, layer in lora_layers(model):
        nn.init.normal_(layer.B, std=0.5)
    path = save_lora_weights(model, tmp_path / "lora_final.pt")
    save_adapter(model, tmp_path / "peft" / "lora_final", str(base))
    capsys.readouterr()
    shown = []
    for adapter in (path, tmp_path / "peft" / "lora_final"):
        assert course("compare", "--lora", adapter, "--samples", 1, "--max-new-tokens", 8) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert " | lora_final" in shown[0]
    assert course("merge", "--lora", path, "--output", tmp_path / "m") == 0
    ids = torch.arange(20)[None]
    assert torch.allclose(loaded(tmp_path / "m")(ids).logits, model(ids).logits, atol=1e-4)
    assert course("merge", "--lora", tmp_path / "lora_finl.pt", "--output", tmp_path / "n") == 2
    assert f"no adapter {tmp_path / 'lora_finl.pt'}. Did you mean {path}?" in capsys.readouterr().err
