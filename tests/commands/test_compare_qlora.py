"""`course compare` of adapters that were trained on a base in 4 bits: what was trained is what speaks."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import course, run
from transformers import AutoTokenizer

from course_lib.adapters import load_adapter
from course_lib.adapters.files import WEIGHTS
from course_lib.commands.generate import load_with_adapter
from course_lib.evaluation.compare_adapters import Sampling, compare_adapters
from course_lib.finetuning.export import quantization_of_adapter
from course_lib.finetuning.model import load_base
from course_lib.finetuning.settings import complete
from course_lib.inference import complete as continue_text
from course_lib.models.pretrained import load_model
from course_lib.quantization import load_quantized, save_quantized

PROMPT = "Line 3: the keeper"


@pytest.fixture
def trained(models, text):
    """A LoRA run, two of QLoRA in different kinds, and a checkpoint of the first of these."""
    for name, *options in (
        ("lora", "--mode", "lora"),
        ("nf4", "--mode", "qlora"),
        ("int4", "--mode", "qlora", "--quant-type", "int4", "--no-double-quant"),
    ):
        assert run(models, text, *options, "--steps", 6, "--lr", 5e-2, output=name) == 0
    return models


def says(model, tokenizer):
    return continue_text(model, tokenizer, [PROMPT], 24, temperature=0.8, seed=0)


def test_each_adapter_speaks_as_it_was_trained(trained):
    folders = [trained / name for name in ("nf4", "lora", "int4")]
    quantized = {folder: how for folder in folders if (how := quantization_of_adapter(folder, folder))}
    assert list(quantized) == [trained / "nf4", trained / "int4"]
    base = str(trained / "llama")
    together = compare_adapters(base, folders, [PROMPT], Sampling(1, 24), quantized=quantized).completions
    tokenizer = AutoTokenizer.from_pretrained(base)
    alone = {"base": says(load_model(base), tokenizer)}
    for name, more in (("nf4", {}), ("lora", None), ("int4", {"quant_type": "int4", "double_quant": False})):
        settings = {"model": base, "mode": "lora" if more is None else "qlora"} | (more or {})
        model = load_base(complete(settings), trained)
        load_adapter(model, trained / name)
        alone[name] = says(model.eval(), tokenizer)
    assert together == alone
    assert list(together) == ["base", "nf4", "lora", "int4"]


def test_the_command_says_so(trained, capsys):
    checkpoint = max((trained / "nf4" / "checkpoints").glob("step_*"))
    options = ["--prompt", PROMPT, "--samples", 1, "--max-new-tokens", 4]
    adapters = ["--adapter", trained / "nf4", "--adapter", checkpoint, "--adapter", trained / "lora"]
    assert course("compare", *adapters, *options) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note:")]
    words = "was trained on nf4, blocks of 64 with double quantisation, and is put on what these 4 bits stand for"
    assert notes == [f"note: {folder} {words}" for folder in (trained / "nf4", checkpoint)]


def test_generate_puts_it_there_too(trained):
    model, _ = load_with_adapter(None, trained / "nf4")
    expected = load_base(complete({"model": str(trained / "llama"), "mode": "qlora"}), trained)
    load_adapter(expected, trained / "nf4")
    ids = torch.arange(3, 40)[None]
    torch.testing.assert_close(model(ids).logits, expected.eval()(ids).logits, rtol=1e-4, atol=1e-5)


def test_the_file_alone_says_how(trained, tmp_path, capsys):
    """An adapter's two files, without the run's: merge and compare take the 4 bits all the same."""
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in (WEIGHTS, "adapter_config.json"):
        shutil.copy(trained / "int4" / name, alone)
    expected = {"quant_type": "int4", "block_size": 64, "double_quant": False, "dtype": "float32"}
    assert quantization_of_adapter(alone, alone) == expected
    assert course("merge", "--adapter", alone, "--output", tmp_path / "merged") == 0
    assert "that the base's INT4 stands for" in capsys.readouterr().out
    # Versions before 0.3 did not write it into the file; then the run's settings count.
    old = trained / "int4" / WEIGHTS
    save_file(load_file(old), old, metadata={"format": "pt"})
    assert quantization_of_adapter(trained / "int4", trained / "int4") == expected
    (trained / "int4" / "run.json").unlink()
    assert quantization_of_adapter(trained / "int4", trained / "int4") is None


def test_a_base_that_is_saved_in_4_bits(models, text, capsys):
    """Train on it, merge and compare: its codes are taken as they are."""
    model = load_quantized(models / "llama", double_quant=True)
    save_quantized(model, models / "small", AutoTokenizer.from_pretrained(models / "llama"))
    options = ["--mode", "qlora", "--steps", 4, "--lr", 5e-2]
    assert run(models, text, *options, model="small", output="run") == 0
    assert run(models, text, *options, model="llama", output="same") == 0
    assert course("merge", "--adapter", models / "run", "--output", models / "m") == 0
    assert course("merge", "--adapter", models / "same", "--output", models / "n") == 0
    one, other = (load_file(models / name / "model.safetensors") for name in "mn")
    assert one.keys() == other.keys()
    assert all(bool((one[name] == other[name]).all()) for name in one)
    assert course("compare", "--adapter", models / "run", "--samples", 1, "--max-new-tokens", 4) == 0


@pytest.mark.parametrize("backend", ["ours", "bitsandbytes"])
def test_a_base_in_other_4_bits_is_refused(models, text, capsys, backend):
    save_quantized(load_quantized(models / "llama"), models / "small", AutoTokenizer.from_pretrained(models / "llama"))
    for mode, *options in (["full"], ["qlora", "--backend", backend], ["qlora", "--backend", backend, "--dry-run"]):
        assert run(models, text, "--mode", mode, *options, model="small") == 2
        error = capsys.readouterr().err
        words = "which cannot be trained: give --mode qlora" if mode == "full" else "--quant-type nf4 --no-double-quant"
        assert words in error
        assert error.count("\n") == 1
        assert not (models / "run").exists()
    options = ["--mode", "qlora", "--backend", backend, "--no-double-quant", "--steps", 2]
    assert run(models, text, *options, model="small") == 0


@pytest.mark.parametrize("mode", ["qlora", "lora"])
def test_a_base_that_cannot_be_loaded_leaves_no_folder(models, text, capsys, mode):
    weights = models / "gpt2" / "model.safetensors"
    tensors = load_file(weights)
    if mode == "qlora":  # a number that no level stands for
        tensors["transformer.h.1.attn.c_attn.weight"][0, 0] = torch.nan
    else:
        del tensors["transformer.h.1.attn.c_attn.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    assert run(models, text, "--mode", mode, model="gpt2") == 2
    error = capsys.readouterr().err
    assert "h.1.attn.c_attn" in error
    assert error.count("\n") == 1
    assert not (models / "run").exists()
