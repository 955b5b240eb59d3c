"""`--weights FILE.pt`: a state_dict read without its code, held against the model, and trained on."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model, LlamaConfig, LlamaForCausalLM

from course_lib.errors import CourseError
from course_lib.finetuning.weights import load_state_dict, read_state_dict

GPT2 = GPT2Config(n_positions=16, n_embd=8, n_layer=1, n_head=2, vocab_size=20, bos_token_id=1, eos_token_id=2)
LLAMA = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 20,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def gpt2(seed=0):
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2)


def llama(tied, seed=0):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=tied))


def old_gpt2s(state):
    """As transformers wrote it until 2023: with the causal mask beside the weights."""
    return state | {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 16, 16),
        "transformer.h.0.attn.masked_bias": torch.ones(1),
    }


def half(state):
    return {name: tensor.half() for name, tensor in state.items()}


def without_head(state):
    return {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}


def without_embedding(state):
    return {name: tensor for name, tensor in state.items() if name != "transformer.wte.weight"}


def wrapped(prefix):
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


def without_prefix(state):
    return {name.removeprefix("transformer."): tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "form",
    [
        dict,
        old_gpt2s,
        without_head,
        without_embedding,
        without_prefix,
        wrapped("_orig_mod."),
        wrapped("module."),
        wrapped("module._orig_mod."),
    ],
    ids=["as it is", "old", "no head", "no embedding", "no prefix", "compiled", "parallel", "both"],
)
def test_every_form_of_gpt2s_weights_fills_the_model(tmp_path, form):
    """Head and embedding are one tensor: in the file it may be there twice, or once under either name."""
    saved = gpt2(seed=1)
    torch.save(form(saved.state_dict()), tmp_path / "w.pt")
    model = gpt2(seed=0)
    load_state_dict(model, tmp_path / "w.pt")
    assert model.lm_head.weight is model.transformer.wte.weight
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(model.parameters(), saved.parameters(), strict=True))


def test_the_headless_model_of_transformers_fits(tmp_path):
    torch.manual_seed(1)
    saved = GPT2Model(GPT2)
    torch.save(saved.state_dict(), tmp_path / "w.pt")
    model = gpt2()
    load_state_dict(model, tmp_path / "w.pt")
    assert torch.equal(model.transformer.h[0].mlp.c_fc.weight, saved.h[0].mlp.c_fc.weight)


def test_half_precision_is_widened(tmp_path):
    torch.save(half(gpt2(seed=1).state_dict()), tmp_path / "w.pt")
    model = gpt2()
    load_state_dict(model, tmp_path / "w.pt")
    assert model.lm_head.weight.dtype == torch.float32


def test_an_untied_model_keeps_its_own_head(tmp_path):
    saved = llama(tied=False, seed=1)
    torch.save(saved.state_dict(), tmp_path / "w.pt")
    model = llama(tied=False)
    load_state_dict(model, tmp_path / "w.pt")
    assert torch.equal(model.lm_head.weight, saved.lm_head.weight)
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    with pytest.raises(CourseError, match="two different tensors .* and this model ties them"):
        read_state_dict(llama(tied=True), tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transformer.h.0.ln_1.bias": None}, r"transformer.h.0.ln_1.bias is absent in the file and \(8,\) here"),
        (
            {"transformer.h.1.ln_1.bias": torch.ones(8)},
            r"transformer.h.1.ln_1.bias is \(8,\) in the file and absent here",
        ),
        (
            {"transformer.wpe.weight": torch.ones(15, 8)},
            r"transformer.wpe.weight is \(15, 8\) in the file and \(16, 8\)",
        ),
        ({"transformer.wte.weight": None, "lm_head.weight": None}, "transformer.wte.weight is absent in the file"),
        ({"epoch": 3}, "holds 'epoch' of type int, not a tensor. Save the weights alone"),
    ],
    ids=["missing", "extra", "misshapen", "no embedding at all", "a number"],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    state = {name: value for name, value in (dict(gpt2().state_dict()) | change).items() if value is not None}
    torch.save(state, tmp_path / "w.pt")
    model = gpt2()
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(CourseError, match=f"w.pt .*{message}"):
        load_state_dict(model, tmp_path / "w.pt")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


class Runs:
    """Unpickled, it would run a command."""

    def __reduce__(self):
        return os.mkdir, ("proof_that_code_ran",)


def test_code_in_the_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(gpt2().state_dict()) | {"x": Runs()}, tmp_path / "w.pt")
    with pytest.raises(CourseError, match="reading that could run code"):
        read_state_dict(gpt2(), tmp_path / "w.pt")
    assert not (tmp_path / "proof_that_code_ran").exists()


def test_a_run_starts_from_the_file(models, text, capsys):
    """`course train --weights`: the base of the run holds the file's weights, and the adapter names that base."""
    from tiny_runs import run

    torch.manual_seed(7)
    weights = {name: torch.randn_like(tensor) * 0.1 for name, tensor in _state(models / "gpt2").items()}
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    torch.save(weights, models / "weights.pt")
    options = ["--weights", models / "weights.pt", "--steps", 2]
    assert run(models, text, *options, model="gpt2") == 0
    base = load_file(models / "run" / "base" / "model.safetensors")
    assert torch.equal(base["transformer.wpe.weight"], weights["transformer.wpe.weight"])
    config = json.loads((models / "run" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(models / "run" / "base")
    mode = {path.stat().st_mode & 0o777 for path in (models / "run" / "base").iterdir()}
    assert mode == {(models / "run" / "run.json").stat().st_mode & 0o777}

    torch.save(dict(list(weights.items())[:3]), models / "weights.pt")
    for more in ([], ["--dry-run"]):
        assert run(models, text, *options, *more, model="gpt2", output="other") == 2
        assert "weights.pt is not for this model" in capsys.readouterr().err
        assert not (models / "other").exists(), "refused before anything is written"


def _state(folder):
    return GPT2LMHeadModel.from_pretrained(folder).state_dict()
