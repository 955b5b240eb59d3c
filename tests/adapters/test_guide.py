"""LoRA by the guide's names, on transformers' models and on our decoder, and its .pt files."""

import copy
import os
import pickle

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from course_lib.adapters import (
    LinearWithLoRA,
    LoRALayer,
    apply_lora_to_model,
    get_lora_parameters,
    inject_butterfly,
    load_adapter,
    load_lora_weights,
    lora_layers,
    merge,
    merge_all_lora_weights,
    save_adapter,
    save_lora_weights,
)
from course_lib.adapters.guide import archive_as_adapter, read_archive
from course_lib.errors import CourseError
from course_lib.models.huggingface import load_decoder

IDS = torch.arange(3, 15)[None]


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory):
    torch.manual_seed(0)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "vocab_size": 97}
    model = GPT2LMHeadModel(GPT2Config(n_positions=32, n_embd=24, n_layer=2, n_head=4, initializer_range=0.3, **ids))
    folder = tmp_path_factory.mktemp("gpt2")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(params=["gpt2", "decoder", "llama"])
def model(request, gpt2_folder, tiny_llama):
    """GPT-2 of transformers, the same in our decoder, and a Llama."""
    if request.param == "llama":
        return tiny_llama
    if request.param == "decoder":
        return load_decoder(gpt2_folder)
    return GPT2LMHeadModel.from_pretrained(gpt2_folder).eval()


def trained(model, seed=0, **options):
    """An adapter with a B that is not zero, as after some steps."""
    apply_lora_to_model(model, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, layer in lora_layers(model):
            layer.B.copy_(0.3 * torch.randn(layer.B.shape, generator=generator))
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def test_wrapping_freezes_the_base_and_prints_each_layer(model, capsys):
    before = logits(model)
    assert apply_lora_to_model(model, rank=4, alpha=8) is model
    assert torch.equal(logits(model), before), "a new adapter changes nothing"
    layers = dict(lora_layers(model))
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"Applied LoRA to {name}: +{layer.A.numel() + layer.B.numel():,} trainable params"
        for name, layer in layers.items()
    ]
    assert all(isinstance(layer, LinearWithLoRA) for layer in layers.values())
    assert all(isinstance(layer.adapters["default"], LoRALayer) for layer in layers.values())
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert [id(parameter) for parameter in get_lora_parameters(model)] == [id(parameter) for parameter in trainable]
    assert len(trainable) == 2 * len(layers)


def test_the_guides_count():
    """GPT-2 small, rank 8 on c_attn: 294,912 parameters in twelve layers of 24,576."""
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config())
        apply_lora_to_model(model)
    assert sum(parameter.numel() for parameter in get_lora_parameters(model)) == 294_912


@pytest.mark.parametrize("rslora", [False, True])
def test_saved_and_loaded_it_is_the_same(model, tmp_path, rslora):
    fresh = copy.deepcopy(model)
    trained(model, rank=4, alpha=8, use_rslora=rslora)
    path = save_lora_weights(model, tmp_path / "deep" / "lora.pt")
    assert load_lora_weights(fresh, path) is fresh
    assert torch.equal(logits(fresh), logits(model))
    assert [layer.scaling for _, layer in lora_layers(fresh)] == [layer.scaling for _, layer in lora_layers(model)]
    assert sorted(file.name for file in path.parent.iterdir()) == ["lora.pt"], "no temporary file is left"
    assert path.stat().st_size < 60_000


def test_two_adapters_take_turns_in_one_model(model, tmp_path):
    styles = {}
    for seed, name in enumerate(("brainrot", "shakespeare")):
        one = trained(copy.deepcopy(model), seed, rank=4)
        styles[save_lora_weights(one, tmp_path / f"{name}.pt")] = logits(one)
    apply_lora_to_model(model, rank=4, use_rslora=True)  # whatever was there, the file decides
    for path in (*styles, *styles):
        assert torch.equal(logits(load_lora_weights(model, path)), styles[path])
    first, second = styles.values()
    assert not torch.allclose(first, second)


def test_a_file_of_transformers_gpt2_fits_our_decoder(gpt2_folder, tmp_path):
    theirs = trained(GPT2LMHeadModel.from_pretrained(gpt2_folder).eval())
    ours = load_lora_weights(load_decoder(gpt2_folder), save_lora_weights(theirs, tmp_path / "a.pt"))
    assert torch.allclose(logits(ours), logits(theirs), atol=1e-4)  # float32, sums in another order
    back = load_lora_weights(
        GPT2LMHeadModel.from_pretrained(gpt2_folder).eval(), save_lora_weights(ours, tmp_path / "b.pt")
    )
    assert torch.equal(logits(back), logits(theirs))


def test_the_folder_of_an_adapter_loads_too(model, tmp_path):
    fresh, again = copy.deepcopy(model), copy.deepcopy(model)
    save_adapter(trained(model), tmp_path / "run")
    assert torch.equal(logits(load_lora_weights(fresh, tmp_path / "run")), logits(model))
    # The guide's name for a file in it, which is not there, means the same.
    assert torch.equal(logits(load_lora_weights(again, tmp_path / "run" / "lora_final.pt")), logits(model))


def test_merged_it_is_a_plain_model(model, tmp_path):
    plain = copy.deepcopy(model)
    names = list(model.state_dict())
    expected = logits(trained(model))
    report = merge_all_lora_weights(model)
    assert report.layers >= 2
    assert report.mean_change > 0
    assert list(model.state_dict()) == names
    torch.save(model.state_dict(), tmp_path / "merged.pt")  # as the guide has it
    plain.load_state_dict(torch.load(tmp_path / "merged.pt", weights_only=True))
    assert torch.allclose(logits(plain), expected, atol=1e-4)  # float32: W x + s B A x against (W + s B A) x
    assert torch.equal(logits(plain), logits(model))


@pytest.mark.parametrize("rslora", [False, True])
def test_in_pefts_layout_it_is_the_same_adapter(gpt2_folder, tmp_path, rslora):
    from peft import PeftModel

    model = trained(GPT2LMHeadModel.from_pretrained(gpt2_folder).eval(), rank=4, alpha=8, use_rslora=rslora)
    folder = archive_as_adapter(save_lora_weights(model, tmp_path / "a.pt"), tmp_path / "peft")
    for path in (folder / "adapter_model.safetensors", tmp_path / "a.pt"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    ours = GPT2LMHeadModel.from_pretrained(gpt2_folder).eval()
    load_adapter(ours, folder)
    assert torch.equal(logits(ours), logits(model))
    theirs = PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(gpt2_folder), folder).eval()
    assert torch.allclose(logits(theirs), logits(model), atol=1e-4)  # float32, sums in another order


def umask():
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_an_adapter_of_another_model_changes_nothing(gpt2_folder, tiny_llama, tmp_path):
    small = GPT2LMHeadModel.from_pretrained(gpt2_folder).eval()
    narrow = GPT2LMHeadModel(GPT2Config(n_positions=32, n_embd=16, n_layer=2, n_head=4, vocab_size=97)).eval()
    short = GPT2LMHeadModel(GPT2Config(n_positions=32, n_embd=24, n_layer=1, n_head=4, vocab_size=97)).eval()
    path = save_lora_weights(trained(small, rank=4), tmp_path / "a.pt")
    cases = [
        (narrow, r"transformer.h.0.attn.c_attn.A is \(4, 24\) in the file and \(4, 16\) here"),
        (short, "which has no layer transformer.h.1.attn.c_attn"),
        (tiny_llama, "which has no layer transformer.h.0.attn.c_attn"),
        (trained(copy.deepcopy(narrow), rank=2), r"is \(4, 24\) in the file and \(2, 16\) here"),
    ]
    for model, message in cases:
        names, before = list(model.state_dict()), logits(model)
        with pytest.raises(CourseError, match=f"a.pt is not for this model.*{message}"):
            load_lora_weights(model, path)
        assert list(model.state_dict()) == names
        assert torch.equal(logits(model), before)


def test_a_layer_that_the_file_lacks_is_an_error(gpt2_folder, tmp_path):
    """Half an adapter is none: PEFT would warn and go on with zeros."""
    model = trained(GPT2LMHeadModel.from_pretrained(gpt2_folder).eval())
    path = save_lora_weights(model, tmp_path / "a.pt")
    saved = torch.load(path, weights_only=True)
    saved["tensors"] = {name: value for name, value in saved["tensors"].items() if ".h.1." not in name}
    torch.save(saved, path)
    with pytest.raises(CourseError, match=r"transformer.h.1.attn.c_attn.A is absent in the file"):
        load_lora_weights(model, path)


def test_what_cannot_take_an_adapter_is_refused(tiny_llama, tmp_path):
    with pytest.raises(CourseError, match="no LoRA adapter to save"):
        save_lora_weights(tiny_llama, tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()
    path = save_lora_weights(trained(copy.deepcopy(tiny_llama)), tmp_path / "a.pt")
    merged = trained(copy.deepcopy(tiny_llama))
    merge(merged)
    with pytest.raises(CourseError, match="merged into its weights"):
        load_lora_weights(merged, path)
    turned = copy.deepcopy(tiny_llama)
    inject_butterfly(turned, ["q_proj"], stages=2)
    with pytest.raises(CourseError, match="adapters of another kind"):
        load_lora_weights(turned, path)
    with pytest.raises(CourseError, match="already"):
        apply_lora_to_model(trained(copy.deepcopy(tiny_llama)))


class Runs:
    """Unpickled, it would run a command."""

    def __reduce__(self):
        return os.mkdir, ("proof_that_code_ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": Runs()}, "holds more than tensors, numbers and text, and reading that could run code"),
        (torch.ones(2), "holds a Tensor, not a dictionary"),
        ({"a": torch.ones(2)}, "holds no LoRA weights of save_lora_weights"),
        ({"format": "course-lora-1"}, "is damaged: it holds no tensors A and B"),
        ({"format": "course-lora-1", "tensors": {"x.A": torch.ones(1)}}, "does not say its rank"),
        (b"PK\x03\x04 and no more", "is damaged, or torch.save did not write it"),
        (pickle.dumps(Runs()), "is damaged, or torch.save did not write it|could run code"),
        (b"", "is damaged, or torch.save did not write it"),
    ],
    ids=["code", "tensor", "weights", "no tensors", "no rank", "cut short", "pickle", "empty"],
)
def test_a_file_that_is_something_else_is_named_and_no_code_runs(tiny_llama, tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CourseError, match=f"a.pt .*{message}") as error:
        load_lora_weights(tiny_llama, path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "proof_that_code_ran").exists()


def test_a_mistyped_file_names_its_neighbour(tmp_path):
    torch.save({}, tmp_path / "lora_final.pt")
    with pytest.raises(CourseError, match=r"no file .*lora_finl.pt. Did you mean .*lora_final.pt\?"):
        read_archive(tmp_path / "lora_finl.pt")
    torch.save({"a": nn.Parameter(torch.ones(1))}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert read_archive(tmp_path / "old.pt")["a"].item() == 1  # torch's format before 1.6
