"""`course memory`: the calculator on the command line."""

import json

import pytest

from course_lib.cli import main


def test_every_kind_of_model(tmp_path, capsys):
    """A folder with only a config.json, a shape of ours, and a published one."""
    from course_lib.finetuning.model import transformers_config
    from course_lib.models.config import CONFIGS

    transformers_config(CONFIGS["tiny-gpt"]).save_pretrained(tmp_path)
    for model in (str(tmp_path), "tiny-gpt"):
        assert main(["memory", model, "--mode", "full", "--seq-len", "32", "--json", str(tmp_path / "m.json")]) == 0
        written = json.loads((tmp_path / "m.json").read_text())
        weights = next(part for part in written["parts"] if part["name"] == "weights")
        assert weights["bytes"] == 4 * written["parameters"]
        assert written["total"] == max(written["moments"].values())
        assert written["left_out"]
    printed = capsys.readouterr().out
    assert "optimiser state" in printed
    assert "left out:" in printed


def test_llama_3_8b_in_4_bits(tmp_path, capsys):
    """6.98 billion weights in the layers, 1.05 billion in embedding, head and norms: 3.60 + 1.96 GiB."""
    command = "memory llama-3-8b --mode qlora --dtype bf16 --seq-len 1024 --batch-size 2 --rank 16 --double-quant "
    command += "--target-modules all-linear --gradient-checkpointing --optimizer adamw-8bit --json"
    assert main([*command.split(), str(tmp_path / "m.json")]) == 0
    parts = {part["name"]: part["bytes"] for part in json.loads((tmp_path / "m.json").read_text())["parts"]}
    assert parts["4-bit weights"] == 6_979_321_856 // 2
    assert parts["adapter"] == 4 * 41_943_040  # rank 16 on all linear layers, as PEFT counts it
    assert "Grattafiori" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("memory llama-9b", "llama-3-8b"),
        ("memory ./absent", "no such file or folder"),
        ("memory tiny-gpt --seq-len 65", "64 positions"),
        ("memory llama-7b --target-modules c_attn", "q_proj"),
        ("memory llama-7b --rank 5000", "rank 5000"),
        ("memory llama-7b --mode qlora --quant-block-size 65", "A block of 65 weights is not possible"),
    ],
)
def test_bad_input_is_one_sentence(words, said, capsys):
    assert main(words.split()) == 2
    assert said in capsys.readouterr().err
