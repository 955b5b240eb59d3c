"""Weights in and out of the Hugging Face layout: a directory with config.json and safetensors.

`load_decoder` reads what transformers saved and transformers reads what `save_decoder` wrote, logits included
(tests/parity/test_decoder.py). A decoder with attention sinks has no counterpart in transformers. Its config.json has a
model_type of our own, so that transformers refuses it and does not load a model without the sinks.

Left out: base models whose head is elsewhere, RoPE scaling, biases in Llama's layers, quantised weights, pickle files.
"""

import json
import re
import sys
import tempfile
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file

from course_lib.data.tokenizers import ModelTokenizer
from course_lib.errors import CourseError
from course_lib.files import apply_umask
from course_lib.models.config import DecoderConfig
from course_lib.models.decoder import Decoder
from course_lib.models.folder import (
    CONFIG,
    INDEX,
    STAGE,
    WEIGHTS,
    foreign_prefixes,
    move_model,
    open_weights,
    say_prefixes,
    weight_files,
    without_prefixes,
)
from course_lib.models.pretrained import resolve

WITH_SINKS = "llama_with_sinks"  # a model_type of our own

# Our config's field: its name in config.json, where that is another.
FIELDS = {
    "llama": {"norm_eps": "rms_norm_eps", "dropout": "attention_dropout"},
    "gpt2": {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
        "intermediate_size": "n_inner",
        "norm_eps": "layer_norm_epsilon",
        "dropout": "resid_pdrop",
    },
}
# What transformers takes where config.json is silent ...
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "tie_word_embeddings": False},
    "gpt2": {"resid_pdrop": 0.1},
}
# ... and the settings that our decoder has in one way only.
FIXED: dict[str, dict[str, Any]] = {
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "quantization_config": None},
    "gpt2": {
        "quantization_config": None,
        "activation_function": "gelu_new",
        "add_cross_attention": False,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
    },
}
# The parts of GPT-2's names in files, and ours, which are Llama's.
PARTS = {
    "transformer": "model",
    "wte": "embed_tokens",
    "wpe": "embed_positions",
    "h": "layers",
    "ln_1": "input_layernorm",
    "attn": "self_attn",
    "ln_2": "post_attention_layernorm",
    "ln_f": "norm",
}
# Masks and frequencies that older files carry; they are computed now.
BUFFERS = re.compile(r"\.attn\.(masked_)?bias$|\.rotary_emb\.inv_freq$")
# GPT-2's files hold these as (in, out), for x @ W (transformers' Conv1D); ours are nn.Linear's (out, in).
TRANSPOSED = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_decoder(
    name: str | Path, dtype: str = "float32", device: str = "cpu", attention: str = "sdpa", dropout: float | None = None
) -> Decoder:
    """The decoder of a directory, or of a name that `pretrained.resolve` knows; in evaluation mode.

    The model is built without memory and then given the file's own pages, which are read when they are first used
    (training changes the model, not the file). Only tensors whose dtype or layout changes are copied, one at a time.

    Args:
        name: the directory, or the name.
        dtype: "float32", "bfloat16" or "float16", whatever the file's is.
        device: where the weights go.
        attention: as in DecoderConfig.
        dropout: None takes the file's: GPT-2's residual one, Llama's attention one.

    Returns:
        The decoder. Its head is a matrix of its own where the file has one that differs from the embedding, also where
        config.json says that they are one; transformers loads such a file the same way.

    Raises:
        CourseError: one sentence, which names the setting or the tensor that does not fit.
    """
    if dtype not in DTYPES:
        raise CourseError(f"dtype is {dtype!r}; it can be {', '.join(DTYPES)}.")
    directory = resolve(name)
    config = read_config(directory, attention=attention, dropout=dropout)
    found = _found(directory, config)
    if config.tie_word_embeddings:
        config = _with_head(directory, config, found)
    with torch.device("meta"):
        model = Decoder(config)
    state = model.state_dict()
    _check(directory, config, state, found)
    # Largest first: its copy, where one is made, stands beside its original while little else is in memory.
    names = sorted(state, key=lambda ours: state[ours].numel(), reverse=True)
    tensors = {ours: _read(found[ours], DTYPES[dtype], device) for ours in names}
    model.load_state_dict(tensors, assign=True)
    about: Any = model  # a Decoder of its own has none: only what was loaded knows where a text ends
    about.generation_config = SimpleNamespace(eos_token_id=_end_tokens(directory))
    return model.eval()


def _end_tokens(directory: Path) -> int | list[int] | None:
    """The tokens that end a text: generation_config.json often names more of them than config.json."""
    for name in ("generation_config.json", CONFIG):
        try:
            ends = json.loads((directory / name).read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError):
            continue
        if ends is not None:
            return ends
    return None


def _ends_of(model: Decoder, tokenizer: ModelTokenizer | None) -> int | list[int] | None:
    """The tokenizer's end token and those of the files that the model was loaded from, as config.json names them."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    known = named if isinstance(named, list) else [named]
    ends = dict.fromkeys(end for end in (getattr(tokenizer, "eos_token_id", None), *known) if end is not None)
    return list(ends) if len(ends) > 1 else next(iter(ends), None)


def save_decoder(
    model: Decoder,
    directory: Path | str,
    tokenizer: ModelTokenizer | None = None,
    overwrite: bool = False,
    stage: str | None = None,
) -> Path:
    """Write config.json and model.safetensors, in the model's dtype, and the tokenizer's files where one is given.

    Each file is written aside and then moved, config.json last: without it a directory is not loaded. What another
    model has left in the directory and would be loaded in place of this one is removed.

    Args:
        model: without adapters.
        directory: a new one, or one to write over.
        tokenizer: as AutoTokenizer gives it; the ids of its special tokens go to config.json, where `generate` looks.
            The end tokens that the model was loaded with stay: a chat model has one for the end of a turn besides.
        overwrite: whether a model that is there may be replaced.
        stage: the stage that trained it, which config.json tells: see `folder.stage_of`.

    Returns:
        The path of model.safetensors.

    Raises:
        CourseError: the directory holds a model and `overwrite` is false, or adapters are in the model.
    """
    directory, config = Path(directory), model.config
    if not overwrite and any((directory / name).exists() for name in (CONFIG, WEIGHTS, INDEX)):
        raise CourseError(f"{directory} holds a model already: choose another directory, or pass overwrite=True.")
    with torch.device("meta"):
        plain = Decoder(config).state_dict()
    if odd := sorted(model.state_dict().keys() ^ plain.keys()):
        raise CourseError(f"Only a plain decoder is saved: merge its adapters first ({odd[0]} is one tensor too many).")

    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=directory) as staging:
        if tokenizer is not None:
            tokenizer.save_pretrained(staging)
        save_file(_for_file(model), Path(staging, WEIGHTS), metadata={"format": "pt"})
        apply_umask(Path(staging, WEIGHTS))
        ids = {name: getattr(tokenizer, name, None) for name in ("bos_token_id", "pad_token_id")}
        ids["eos_token_id"] = _ends_of(model, tokenizer)
        dtype = str(model.model.embed_tokens.weight.dtype).removeprefix("torch.")
        about = config_settings(config) | ids | {"dtype": dtype} | ({STAGE: stage} if stage else {})
        Path(staging, CONFIG).write_text(json.dumps(about, indent=2))
        move_model(Path(staging), directory)
    return directory / WEIGHTS


# --- config.json ---------------------------------------------------------------------------------------------------


def read_config(directory: Path | str, attention: str = "sdpa", dropout: float | None = None) -> DecoderConfig:
    """The DecoderConfig that a directory's config.json describes.

    Args:
        directory: the model's folder.
        attention: as in DecoderConfig.
        dropout: None takes the file's.

    Returns:
        The config.

    Raises:
        CourseError: the file is unreadable, of another architecture, or has a setting that our decoder lacks.
    """
    path = Path(directory) / CONFIG
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        kind = {WITH_SINKS: "llama"}.get(settings["model_type"], settings["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{path} cannot be read as a model's config ({type(error).__name__}: {error}).") from error
    if kind not in FIELDS:
        raise CourseError(f"{directory} holds a model of type {kind!r}; this decoder reads {' and '.join(FIELDS)}.")
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    scaling = rope.get("rope_type") or rope.get("type") or "default"
    for key, value in {**FIXED[kind], "rope_type": "default"}.items():
        if (given := {"rope_type": scaling, **settings}.get(key, value)) != value:
            raise CourseError(f"{path} sets {key} to {given!r}; this decoder knows {value!r} only.")

    settings = DEFAULTS[kind] | settings
    settings["rope_theta"] = rope.get("rope_theta") or settings.get("rope_theta") or 10_000.0
    values = {}
    for field in fields(DecoderConfig):
        if (key := FIELDS[kind].get(field.name, field.name)) in settings:
            values[field.name] = settings[key]
        elif field.default is MISSING:
            raise CourseError(f"{path} does not say what {key} is.")
    values |= {"model_type": kind, "attention": attention, "attention_sinks": settings["model_type"] == WITH_SINKS}
    return DecoderConfig(**values | ({} if dropout is None else {"dropout": dropout}))


def config_settings(config: DecoderConfig) -> dict:
    """What config.json says of this decoder, in transformers' words; `read_config` reads it back."""
    gpt2 = config.model_type == "gpt2"
    ours_alone = {"attention", "attention_sinks", "rope_theta"} | (
        {"num_key_value_heads", "head_dim"} if gpt2 else set()
    )
    settings = {
        FIELDS[config.model_type].get(field.name, field.name): getattr(config, field.name)
        for field in fields(config)
        if field.name not in ours_alone
    }
    settings |= {key: value for key, value in FIXED[config.model_type].items() if value is not None}
    if gpt2:
        return settings | {
            "architectures": ["GPT2LMHeadModel"],
            "embd_pdrop": config.dropout,
            "attn_pdrop": config.dropout,
        }
    if config.attention_sinks:
        settings["model_type"] = WITH_SINKS
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    return settings | {"architectures": ["LlamaForCausalLM"], "rope_parameters": rope}


# --- tensors -------------------------------------------------------------------------------------------------------


def name_in_file(name: str, model_type: str) -> str:
    """Our tensor's name in files: "model.layers.0.self_attn.c_attn.bias" is "transformer.h.0.attn.c_attn.bias".

    Args:
        name: our name.
        model_type: "gpt2" or "llama"; Llama's names are the same in both.

    Returns:
        The name in files.
    """
    if model_type != "gpt2":
        return name
    theirs = {ours: theirs for theirs, ours in PARTS.items()}
    return ".".join(theirs.get(part, part) for part in name.split("."))


def name_here(name: str, model_type: str) -> str:
    """The inverse of `name_in_file`.

    Args:
        name: a name in a file. The leading "transformer" may be missing, as in OpenAI's own GPT-2 files.
        model_type: "gpt2" or "llama".

    Returns:
        Our name.
    """
    parts = [PARTS.get(part, part) for part in name.split(".")] if model_type == "gpt2" else name.split(".")
    return ".".join(parts if parts[0] in ("model", "lm_head") else ["model", *parts])


def _is_transposed(name: str, config: DecoderConfig) -> bool:
    return config.model_type == "gpt2" and TRANSPOSED.search(name) is not None


def _for_file(model: Decoder) -> dict[str, torch.Tensor]:
    config = model.config
    return {
        name_in_file(name, config.model_type): (tensor.T if _is_transposed(name, config) else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }


@dataclass(frozen=True)
class _Place:
    """Where a tensor is: the path, the open file, its name there, and whether it is stored transposed."""

    path: Path
    file: Any
    name: str
    transposed: bool

    def shape(self) -> tuple[int, ...]:
        """As it is stored; nothing is read."""
        return tuple(self.file.get_slice(self.name).get_shape())


def _found(directory: Path, config: DecoderConfig) -> dict[str, _Place]:
    """Where each tensor of the files is, by our names. Nothing is read yet but the headers."""
    opened = {path: open_weights(path) for path in weight_files(directory)}
    prefixes = foreign_prefixes(name for file in opened.values() for name in file.keys())  # noqa: SIM118
    say_prefixes(directory, prefixes)
    found = {}
    for path, file in opened.items():
        for name in file.keys():  # noqa: SIM118 - not a dictionary
            plain = without_prefixes(name, prefixes)
            if not BUFFERS.search(plain):
                found[name_here(plain, config.model_type)] = _Place(path, file, name, _is_transposed(plain, config))
    return found


def _with_head(directory: Path, config: DecoderConfig, found: dict[str, _Place]) -> DecoderConfig:
    """The config of a tied decoder, with a head of its own where the file's differs; `found` loses a needless one."""
    head, embedding = found.get("lm_head.weight"), found.get("model.embed_tokens.weight")
    if head is None:
        return config
    if embedding is None:  # either of the two names may be the one that was saved
        found["model.embed_tokens.weight"] = found.pop("lm_head.weight")
        return config
    if torch.equal(head.file.get_tensor(head.name), embedding.file.get_tensor(embedding.name)):
        del found["lm_head.weight"]
        return config
    print(
        f"{directory}: config.json ties the head to the embedding, but the file has two different matrices; both are "
        "loaded.",
        file=sys.stderr,
        flush=True,
    )
    return replace(config, tie_word_embeddings=False)


def _check(directory: Path, config: DecoderConfig, wanted: dict[str, torch.Tensor], found: dict[str, _Place]) -> None:
    """Raise CourseError for the first tensor that is unknown to the config, of another shape, or missing."""
    for ours, place in found.items():
        if ours not in wanted:
            raise CourseError(f"{place.path} does not fit its config.json, by which there is no tensor {place.name}.")
        expected = tuple(wanted[ours].shape)
        if place.transposed:
            expected = expected[::-1]
        if place.shape() != expected:
            raise CourseError(
                f"{place.path} does not fit its config.json, by which {place.name} has shape {expected}, not "
                f"{place.shape()}."
            )
    if missing := sorted(wanted.keys() - found.keys()):
        name = name_in_file(missing[0], config.model_type)
        raise CourseError(f"{directory} is not complete: {len(missing)} tensors are missing, the first {name}.")


def _read(place: _Place, dtype: torch.dtype, device: str) -> torch.Tensor:
    """The file's own pages where nothing changes, else a copy."""
    tensor = place.file.get_tensor(place.name)  # mapped: no byte of it is read yet
    if tensor.dtype == dtype and not place.transposed and str(device) == "cpu":
        return tensor
    # What is copied comes from a mapping of its own, so that the original's pages are given back at once.
    tensor = open_weights(place.path).get_tensor(place.name)
    tensor = tensor.T if place.transposed else tensor
    return tensor.to(device, dtype, memory_format=torch.contiguous_format).contiguous()
