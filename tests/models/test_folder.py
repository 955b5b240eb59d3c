"""What a model's folder holds: prefixes of wrappers, tensors that are missing, and two models in one folder."""

import copy
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from course_lib.errors import CourseError
from course_lib.models.config import DecoderConfig
from course_lib.models.decoder import Decoder
from course_lib.models.folder import INDEX, WEIGHTS, foreign_prefixes, plain_name, weight_files
from course_lib.models.huggingface import load_decoder, save_decoder
from course_lib.models.pretrained import load_model, load_tokenizer, resolve

TOKENS = torch.arange(10)[None]
SIZES = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
OURS = DecoderConfig("llama", 97, 32, 2, 4, 64, intermediate_size=48, num_key_value_heads=2)


def theirs(seed=0, tied=True):
    """A small Llama of transformers', with random weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied)
    return LlamaForCausalLM(config).eval()


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


def loads(directory, model):
    """Both ways of loading give this model."""
    expected = logits(model)
    torch.testing.assert_close(logits(load_model(directory)), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(load_decoder(directory)), expected, atol=1e-5, rtol=0)


def rename(directory, change):
    """Give each tensor in the folder's one file another name."""
    tensors = load_file(directory / WEIGHTS)
    save_file(
        {change(name): tensor for name, tensor in tensors.items()}, directory / WEIGHTS, metadata={"format": "pt"}
    )


# --- prefixes --------------------------------------------------------------------------------------------------------

PREFIXED = {
    "_orig_mod.": "torch.compile",
    "module.": "DistributedDataParallel",
    "module._orig_mod.": "torch.compile, DistributedDataParallel",
    "base_model.model.": "PEFT",
    "model.": "a module around the model",
}


@pytest.mark.parametrize("prefix", PREFIXED)
def test_prefixes_of_wrappers_are_removed_and_said(prefix, tmp_path, capfd):
    model = theirs()
    model.save_pretrained(tmp_path)
    rename(tmp_path, lambda name: prefix + name)
    loads(tmp_path, model)
    assert capfd.readouterr().err.count(f"prefixes of {PREFIXED[prefix]}") == 2


def test_a_prefix_in_the_middle_of_a_name_more_than_once(tmp_path, capfd):
    model = theirs(tied=False)
    model.save_pretrained(tmp_path)
    twice = "_fsdp_wrapped_module.model.layers._fsdp_wrapped_module."
    rename(tmp_path, lambda name: re.sub(r"^model\.layers\.", twice, name))
    loads(tmp_path, model)
    assert "prefixes of FSDP were removed" in capfd.readouterr().err


def test_what_was_renamed_is_saved_with_plain_names(tmp_path):
    """transformers 5.23 would save the renaming's pattern as a part of the names."""
    model = theirs()
    model.save_pretrained(tmp_path / "a")
    plain = set(load_file(tmp_path / "a" / WEIGHTS))
    rename(tmp_path / "a", lambda name: f"_orig_mod.{name}")
    load_model(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert set(load_file(tmp_path / "b" / WEIGHTS)) == plain
    loads(tmp_path / "b", model)


def test_plain_names_have_no_foreign_prefixes():
    names = ["model.embed_tokens.weight", "lm_head.weight", "transformer.h.0.attn.c_attn.weight", "wte.weight"]
    assert foreign_prefixes(names) == {}
    assert [plain_name(name) for name in names] == names
    assert plain_name("module._orig_mod.model.module.weight") == "model.module.weight"


# --- missing tensors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lose", "message"),
    [
        (
            lambda name: None if "layers.1.mlp.up" in name else name,
            "the tensor .*layers.1.mlp.up_proj.weight is missing",
        ),
        (
            lambda name: f"backbone.{name}",
            r"tensors, the first .*, are missing; the first one in the file is backbone\.model",
        ),
        (lambda name: name if "layers.0" in name else None, "tensors, the first lm_head.weight, are missing"),
    ],
)
def test_a_base_that_lacks_tensors_is_refused(lose, message, tmp_path):
    theirs().save_pretrained(tmp_path)
    tensors = {new: tensor for name, tensor in load_file(tmp_path / WEIGHTS).items() if (new := lose(name))}
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CourseError, match=message) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(CourseError, match="missing|no tensor"):
        load_decoder(tmp_path)


def test_a_tensor_of_another_size_is_named(tmp_path):
    theirs().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    size = len(tensors["model.norm.weight"])
    save_file(tensors | {"model.norm.weight": torch.ones(size - 1)}, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CourseError, match=rf"model.norm.weight is \({size - 1},\) in the file and \({size},\)"):
        load_model(tmp_path)


def test_weight_files_without_tensors(tmp_path):
    theirs().save_pretrained(tmp_path)
    save_file({}, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CourseError, match="its weight files hold no tensors"):
        load_model(tmp_path)


def test_tensors_that_nobody_uses_are_said(tmp_path, capfd):
    """A config.json with one layer less: transformers loads the rest, and the course's own decoder refuses."""
    theirs().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    load_model(tmp_path)
    assert (
        "9 tensors, the first model.layers.1.input_layernorm.weight, are not part of the model"
        in capfd.readouterr().err
    )
    with pytest.raises(CourseError, match="no tensor model.layers.1"):
        load_decoder(tmp_path)


def test_merge_saves_nothing_on_such_a_base(tmp_path):
    """The whole command, since random weights passed through every part of it before."""
    from course_lib.adapters import inject_lora, save_adapter
    from course_lib.cli import main

    model = theirs()
    model.save_pretrained(tmp_path / "base")
    inject_lora(model, ["q_proj"])
    save_adapter(model, tmp_path / "adapter", base_name=str(tmp_path / "base"))
    tensors = load_file(tmp_path / "base" / WEIGHTS)
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "base" / WEIGHTS, metadata={"format": "pt"})
    save_tokenizer(tmp_path / "base")
    arguments = ["merge", "--adapter", str(tmp_path / "adapter"), "--output", str(tmp_path / "merged")]
    assert main(arguments) != 0
    assert not (tmp_path / "merged").exists()


def save_tokenizer(directory):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {letter: i for i, letter in enumerate("abcdefgh")}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="h"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="h").save_pretrained(directory)


def test_a_git_lfs_pointer_is_called_one(tmp_path):
    theirs().save_pretrained(tmp_path)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 538090408\n"
    (tmp_path / WEIGHTS).write_text(pointer)
    for load in (load_model, load_decoder):
        with pytest.raises(CourseError, match="Git LFS pointer.*git lfs pull"):
            load(tmp_path)


# --- two models in one folder ----------------------------------------------------------------------------------------


def save_single(directory, seed, tied):
    model = theirs(seed, tied)
    model.save_pretrained(directory)
    return model


def save_sharded(directory, seed, tied):
    model = theirs(seed, tied)
    model.save_pretrained(directory, max_shard_size="20KB")
    assert (directory / INDEX).exists()
    return model


def save_ours(directory, seed, tied):
    torch.manual_seed(seed)
    model = Decoder(replace(OURS, tie_word_embeddings=tied)).eval()
    save_decoder(model, directory, overwrite=True)
    return model


SAVES = [save_single, save_sharded, save_ours]


@pytest.mark.parametrize("last", SAVES)
@pytest.mark.parametrize("first", SAVES)
@pytest.mark.parametrize("tied", [(True, True), (False, False), (True, False), (False, True)])
def test_the_model_saved_last_is_the_one_that_loads(first, last, tied, tmp_path):
    first(tmp_path, 1, tied[0])
    for path in tmp_path.iterdir():  # as if it had been saved a minute ago
        os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns - 60 * 10**9))
    loads(tmp_path, last(tmp_path, 2, tied[1]))


def test_our_save_leaves_nothing_of_another_model(tmp_path):
    save_sharded(tmp_path, 1, True)
    save_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("of another tokenizer")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    (tmp_path / "notes.txt").write_text("a user's own")
    save_ours(tmp_path, 2, True)
    left = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", WEIGHTS, "notes.txt", "tokenizer.json", "chat_template.jinja"} <= left
    assert not left & {INDEX, "generation_config.json"}
    assert not [name for name in left if name.startswith("model-")]

    class Tokenizer:
        def save_pretrained(self, directory):
            for name in ("tokenizer.json", "tokenizer_config.json"):
                Path(directory, name).write_text("{}")

    save_decoder(Decoder(OURS), tmp_path, Tokenizer(), overwrite=True)
    assert not (tmp_path / "chat_template.jinja").exists()
    assert (tmp_path / "notes.txt").exists()


def test_two_models_of_one_age_are_refused(tmp_path, capfd):
    save_single(tmp_path, 1, True)
    save_sharded(tmp_path, 2, True)
    for name in (WEIGHTS, INDEX):
        os.utime(tmp_path / name, ns=(0, 10**18))
    for load in (load_model, load_decoder):
        with pytest.raises(CourseError, match="holds two models of the same age.*Remove"):
            load(tmp_path)
    os.utime(tmp_path / WEIGHTS, ns=(0, 10**18 - 1))
    assert len(weight_files(tmp_path)) > 1
    assert f"{INDEX} is newer and is taken" in capfd.readouterr().err


def test_broken_indexes(tmp_path):
    save_sharded(tmp_path, 1, True)
    (tmp_path / INDEX).write_text("{not json")
    with pytest.raises(CourseError, match="cannot be read as an index"):
        load_model(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"x": "../elsewhere.safetensors"}}))
    with pytest.raises(CourseError, match="names '../elsewhere.safetensors', which is not a file of this folder"):
        load_model(tmp_path)
    (tmp_path / INDEX).unlink()
    with pytest.raises(CourseError, match=f"holds no {WEIGHTS} and no {INDEX}"):
        load_model(tmp_path)


# --- tied and untied -------------------------------------------------------------------------------------------------


def test_a_tied_config_with_two_matrices(tmp_path, capfd):
    """transformers loads both where they differ, and the one where they are equal; so do we."""
    model = theirs(tied=False)
    model.config.tie_word_embeddings = True
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
    model.config.save_pretrained(tmp_path)
    state = copy.deepcopy(model.state_dict())
    save_file(state, tmp_path / WEIGHTS, metadata={"format": "pt"})
    loads(tmp_path, model)
    assert load_decoder(tmp_path).config.tie_word_embeddings
    assert capfd.readouterr().err == ""

    state["lm_head.weight"][5, 7] += 1.0
    with torch.no_grad():
        model.lm_head.weight[5, 7] += 1.0
    save_file(state, tmp_path / WEIGHTS, metadata={"format": "pt"})
    loads(tmp_path, model)
    assert not load_decoder(tmp_path).config.tie_word_embeddings
    assert "two different matrices; both are loaded" in capfd.readouterr().err

    del state["model.embed_tokens.weight"]
    save_file(state, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(model.lm_head.weight)
    loads(tmp_path, model)  # the head alone fills both


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"config.json": '{"model_type": "course_verifier"}', "model.safetensors": ""},
            "holds a verifier, which judges",
        ),
        (
            {"adapter_config.json": "{}", "adapter_model.safetensors": ""},
            "holds an adapter and not a whole model: give",
        ),
        ({"weights.safetensors": "", "state.json": "{}"}, "holds a checkpoint, from which a run goes on with --resume"),
        ({"run.json": "{}", "log.jsonl": ""}, "holds a run that has not written its model yet: finish it"),
        ({"notes.txt": ""}, "holds no config.json"),
    ],
)
def test_a_folder_of_another_kind_says_what_it_holds(tmp_path, files, said):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for read in (resolve, load_tokenizer):
        with pytest.raises(CourseError, match=said):
            read(tmp_path)
