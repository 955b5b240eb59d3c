"""The benchmark of supervised fine-tuning: both sides compute the same losses, and its figures say what they claim."""

import json

import pytest

from course_lib.benchmarks.sft import check_same_losses, read_examples
from course_lib.cli import main
from course_lib.models.pretrained import load_tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bench_sft(model_folders, tmp_path, capsys, dtype):
    """It refuses to time sides that lose differently, before and after an update."""
    out, data = tmp_path / "b.json", tmp_path / "records.json"
    data.write_text(json.dumps([{"instruction": f"Lamp {n}?", "input": "", "output": "It is lit."} for n in range(9)]))
    options = ["--model", str(model_folders / "llama"), "--dataset", str(data), "--dtype", dtype, "--json", str(out)]
    assert main(["bench", "sft", *options, "--examples", "8", "--pairs", "1", "--threads", "1"]) == 0
    written = json.loads(out.read_text())
    figures, configuration = written["figures"], written["configuration"]
    assert figures["examples"] == 8
    assert 0 < figures["trained_share"] < 1
    for peer in ("trl", "trl_packed"):
        ours, theirs = figures[f"ours_beside_{peer}_tokens_per_s"], figures[f"{peer}_tokens_per_s"]
        assert figures[f"ours_over_{peer}"] == pytest.approx(ours / theirs)  # of one pair
        assert configuration[peer]["bf16"] == (dtype == "bfloat16")
        assert not configuration[peer]["gradient_checkpointing"]
    assert configuration["trl_packed"]["rows"] < configuration["trl"]["rows"] == 8
    assert configuration["both"]["data"] == "records.json"
    assert "ours_over_trl_packed" in capsys.readouterr().out


def test_sides_that_lose_differently_are_not_timed():
    class Side:
        def __init__(self, losses):
            self.losses = iter(losses)

        def step(self, batch):
            return next(self.losses)

    with pytest.raises(AssertionError, match="different losses at step 1"):
        check_same_losses(Side([2.0, 1.9]), Side([2.0, 1.8]), {}, tolerance=0.01)


@pytest.mark.weights
def test_generated_examples_are_as_long_as_published_ones():
    """57.5 tokens on average in 1,100 published instructions, with SmolLM2's chat template."""
    lengths = [len(example["labels"]) for example in read_examples(None, load_tokenizer(), 200)]
    assert sum(lengths) / len(lengths) == pytest.approx(57.5, rel=0.05)
