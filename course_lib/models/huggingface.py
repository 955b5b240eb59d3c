"""Weights in and out of the Hugging Face layout: a directory with config.json and safetensors.

`load_decoder` reads what transformers saved and transformers reads what `save_decoder` wrote, logits included
(tests/parity/test_decoder.py). A decoder with attention sinks has no counterpart in transformers; its config.json says
so by a model_type that transformers refuses, rather than load a model without them.

Left out: base models whose head is elsewhere, RoPE scaling, biases in Llama's layers, quantised weights, pickle files.
"""

import json
import os
import re
import tempfile
from dataclasses import MISSING, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from course_lib.data.tokenizers import ModelTokenizer
from course_lib.errors import CourseError
from course_lib.files import apply_umask
from course_lib.models.config import DecoderConfig
from course_lib.models.decoder import Decoder
from course_lib.models.pretrained import resolve

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
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

    dtype: "float32", "bfloat16" or "float16", whatever the file's is. attention: as in DecoderConfig.
    dropout: None takes the file's: GPT-2's residual one, Llama's attention one.
    The model is built without memory and then given the file's own pages, which are read when they are first used
    (training changes the model, not the file). Only tensors whose dtype or layout changes are copied, one at a time.
    Raises CourseError, one sentence, naming the setting or the tensor that does not fit.
    """
    if dtype not in DTYPES:
        raise CourseError(f"dtype is {dtype!r}; it can be {', '.join(DTYPES)}.")
    directory = resolve(name)
    with torch.device("meta"):
        model = Decoder(read_config(directory, attention=attention, dropout=dropout))
    state = model.state_dict()
    places = _places(directory, model)
    # Largest first: its copy, where one is made, stands beside its original while little else is in memory.
    names = sorted(state, key=lambda ours: state[ours].numel(), reverse=True)
    tensors = {ours: _read(*places[ours], DTYPES[dtype], device) for ours in names}
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


def save_decoder(
    model: Decoder, directory: Path | str, tokenizer: ModelTokenizer | None = None, overwrite: bool = False
) -> Path:
    """Write config.json and model.safetensors, in the model's dtype, and the tokenizer's files where one is given.

    tokenizer: as AutoTokenizer gives it; the ids of its special tokens go to config.json, where `generate` looks.
    Each file is written aside and then moved, config.json last: without it a directory is not loaded.
    Raises CourseError where the directory holds a model and `overwrite` is false, or where adapters are in the model.
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
        ids = {name: getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        dtype = str(model.model.embed_tokens.weight.dtype).removeprefix("torch.")
        Path(staging, CONFIG).write_text(json.dumps(config_settings(config) | ids | {"dtype": dtype}, indent=2))
        for path in sorted(Path(staging).iterdir(), key=lambda path: path.name == CONFIG):
            os.replace(path, directory / path.name)
    return directory / WEIGHTS


# --- config.json ---------------------------------------------------------------------------------------------------


def read_config(directory: Path | str, attention: str = "sdpa", dropout: float | None = None) -> DecoderConfig:
    """The DecoderConfig that a directory's config.json describes.

    Raises CourseError where it is unreadable, of another architecture, or has a setting that our decoder lacks.
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
    """Our tensor's name in files: "model.layers.0.self_attn.c_attn.bias" is "transformer.h.0.attn.c_attn.bias"."""
    if model_type != "gpt2":
        return name
    theirs = {ours: theirs for theirs, ours in PARTS.items()}
    return ".".join(theirs.get(part, part) for part in name.split("."))


def name_here(name: str, model_type: str) -> str:
    """The inverse of `name_in_file`; the leading "model" may be missing, as in OpenAI's own GPT-2 files."""
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


def _places(directory: Path, model: Decoder) -> dict[str, tuple[Path, Any, str, bool]]:
    """Where each of the model's tensors is: path, open file, name there, whether transposed. Nothing is read yet."""
    config = model.config
    found: dict[str, tuple[Path, Any, str, bool]] = {}
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for path in _files(directory):
        file = _opened(path)
        for name in file.keys():  # noqa: SIM118 (not a dictionary)
            ours, transposed = name_here(name, config.model_type), _is_transposed(name, config)
            if BUFFERS.search(name) or (ours == "lm_head.weight" and config.tie_word_embeddings):
                continue
            shape, step = tuple(file.get_slice(name).get_shape()), -1 if transposed else 1
            if ours not in wanted:
                raise CourseError(f"{path} does not fit its config.json, by which there is no tensor {name}.")
            if shape[::step] != (expected := wanted[ours]):
                raise CourseError(
                    f"{path} does not fit its config.json, by which {name} has shape {expected[::step]}, not {shape}."
                )
            found[ours] = path, file, name, transposed
    if missing := sorted(wanted.keys() - found.keys()):
        name = name_in_file(missing[0], config.model_type)
        raise CourseError(f"{directory} is not complete: {len(missing)} tensors are missing, the first {name}.")
    return found


def _files(directory: Path) -> list[Path]:
    """model.safetensors, or the shards that an index names."""
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    try:
        shards = sorted(set(json.loads((directory / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CourseError(f"{directory} holds no {WEIGHTS} and no readable {INDEX}.") from error
    if missing := [shard for shard in shards if Path(shard).name != shard or not (directory / shard).is_file()]:
        raise CourseError(f"{directory} is not complete: {INDEX} names {missing[0]}, which is not there.")
    return [directory / shard for shard in shards]


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CourseError(f"{path} is damaged or no safetensors file ({error}).") from error


def _read(path: Path, file: Any, name: str, transposed: bool, dtype: torch.dtype, device: str) -> torch.Tensor:
    """The file's own pages where nothing changes, else a copy."""
    tensor = file.get_tensor(name)  # mapped: no byte of it is read yet
    if tensor.dtype == dtype and not transposed and str(device) == "cpu":
        return tensor
    # What is copied comes from a mapping of its own, so that the original's pages are given back at once.
    tensor = _opened(path).get_tensor(name)
    tensor = tensor.T if transposed else tensor
    return tensor.to(device, dtype, memory_format=torch.contiguous_format).contiguous()
