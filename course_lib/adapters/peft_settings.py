"""What PEFT's settings say about an adapter's tensors: which are read here, which are refused, which need work.

Some of PEFT's initialisations take a part out of the base and train that part as A and B. PiSSA (Meng et al. 2024,
arXiv:2404.02948) takes the r largest singular components of W, OLoRA (Büyükakyüz 2024, arXiv:2406.01775) the first r
columns of Q and rows of R in W = Q R. The model is then

    W' = (W - s B0 A0) + s B A        A0, B0: what was taken out

and the file holds A and B alone. Put on the untouched base, the adapter adds its part a second time: an untrained PiSSA
adapter, which should change nothing, took SmolLM2's loss from 6.55 to 17.69. In both cases B0 A0 follows from W
alone, so it is computed again here, and the adapter becomes a plain one of twice the rank:

    W' = W + s [B, -B0] [A; A0]

The base stays as it is, so that switching off, merging, unmerging and swapping work as for any adapter. PEFT does this
where `save_pretrained` is given `path_initial_model_for_weight_conversion`. Other initialisations that change the base
depend on random numbers (pissa_niter_N), on data or gradients (corda, lora_ga) or on a quantiser (loftq): those are
refused by name. The rules are those of PEFT 0.21.2; tests/adapters/test_peft_settings.py compares them with it.
"""

import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from transformers.pytorch_utils import Conv1D

from course_lib.adapters.layers import AdaptedLayer
from course_lib.errors import CourseError
from course_lib.models.folder import VERIFIER, model_type
from course_lib.models.linear_layers import name_ends_with

# What PEFT assumes where a configuration says nothing
DEFAULTS: dict[str, Any] = {
    "r": 8,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "use_rslora": False,
    "target_modules": None,
    "init_lora_weights": True,
}
# Settings that change what the tensors mean, or that bring other tensors than A and B of a linear layer.
UNREADABLE = {
    "rank_pattern": "other ranks for some layers",
    "alpha_pattern": "another alpha for some layers",
    "use_dora": "a trained magnitude for each layer",
    "use_qalora": "pooled inputs of a quantised layer",
    "use_bdlora": "block-diagonal matrices",
    "kasa_config": "a base without its smallest singular components",
    "monteclora_config": "sampled weights",
    "arrow_config": "routing between several adapters",
    "alora_invocation_tokens": "an adapter that acts on some tokens only",
    "layer_replication": "copies of layers",
    "megatron_config": "Megatron's layers",
    "target_parameters": "adapters on parameters that are not linear layers",
    "modules_to_save": "whole layers that were trained beside the adapter",
    "trainable_token_indices": "trained rows of the embedding",
    "lora_bias": "a trained bias in B",
    "bias": "trained biases of the base",
}
# Initialisations that leave the base as it is: A and B mean what they do in plain LoRA.
PLAIN = {"true", "false", "none", "gaussian", "orthogonal", "eva", "mica"}
RECOMPUTED = {"pissa", "olora"}
WHY_NOT = {
    "pissa_niter": "a randomised decomposition, which gives another base each time",
    "corda": "a decomposition that depends on the data it was given",
    "lora_ga": "gradients of the data it was given",
    "loftq": "a quantisation of the base",
}
# Settings that do not change what A and B mean: about the base's name and the file, about how A and B began, or read
# elsewhere in this package.
HARMLESS = set(
    "auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config exclude_modules fan_in_fan_out "
    "inference_mode layers_pattern layers_to_transform loftq_config lora_ga_config megatron_core peft_type "
    "peft_version qalora_group_size revision runtime_config task_type velora_config".split()
)
# Kinds of values of the settings that are read here. PEFT writes them so; a file edited by hand may not have them.
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "peft_type": ((str,), "a text"),
    "r": ((int,), "a whole number above 0"),
    "lora_alpha": ((int, float), "a number"),
    "lora_dropout": ((int, float), "a number"),
    "target_modules": ((str, list, type(None)), "a text, a list of texts or null"),
    "base_model_name_or_path": ((str, type(None)), "a text or null"),
}
MERGED = "Load it with PEFT, and save the merged model (merge_and_unload, then save_pretrained): that can be read."


def what_is_there(folder: Path) -> str:
    """What a folder without the settings of an adapter holds, for a message."""
    if inside := sorted(each.parent.name for each in folder.glob("*/adapter_config.json")):
        return f"adapters in folders of their own ({', '.join(inside)}), of which one can be named"
    if (folder / "weights.safetensors").is_file():
        return "a checkpoint (course adapters export makes an adapter of it)"
    if model_type(folder) == VERIFIER:
        return "a verifier, which judges answers and changes none (course verifier score and rerank use it)"
    return "a whole model, which needs no base" if (folder / "config.json").is_file() else "no adapter"


def check_kinds(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse settings whose values are of another kind than PEFT writes.

    Args:
        path: of the settings' file, for the error.
        config: the settings.

    Raises:
        CourseError: there is such a setting. The error names the first one, with its value.
    """
    for setting, (kinds, words) in KINDS.items():
        if setting not in config:
            continue
        value = config[setting]
        fits = isinstance(value, kinds) and not isinstance(value, bool)
        if not fits or (setting == "r" and value < 1):
            raise CourseError(f"{path} is damaged: {setting} is {_short(value)}, and it should be {words}.")


def check_settings(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse an adapter with a setting that is not read here.

    Args:
        folder: of the adapter, for errors.
        config: its settings.

    Raises:
        CourseError: there is such a setting. The error names the first one, with its value.
    """
    for setting, meaning in UNREADABLE.items():
        value = config.get(setting)
        if value and (setting, value) != ("bias", "none"):
            raise CourseError(f"{folder} uses PEFT's {setting} = {_short(value)} ({meaning}): not read here. {MERGED}")
    init = initialisation(config)
    if init in PLAIN or init in RECOMPUTED:
        return
    why = next((why for start, why in WHY_NOT.items() if init.startswith(start)), "an initialisation unknown here")
    raise CourseError(
        f"{folder} was made with PEFT's init_lora_weights = {_short(config['init_lora_weights'])}: {why}. Its A and B "
        "belong to a changed base, which cannot be computed again. Save it once more with PEFT's "
        "path_initial_model_for_weight_conversion, or, where the changed base was saved, give that base and set "
        "init_lora_weights to true in adapter_config.json."
    )


def say_unknown(folder: Path, config: Mapping[str, Any]) -> None:
    """Print a line on stderr about settings that nobody here knows: a newer PEFT may mean another sum than s B A.

    Args:
        folder: of the adapter.
        config: its settings.
    """
    known = HARMLESS | DEFAULTS.keys() | UNREADABLE.keys()
    unknown = [f"{name} = {_short(value)}" for name, value in config.items() if value and name not in known]
    if unknown:
        version = config.get("peft_version", "of another version")
        print(
            f"note: {folder} has settings that are unknown here: {', '.join(unknown)}. It was saved by PEFT {version}: "
            "compare what it says with what it says there.",
            file=sys.stderr,
            flush=True,
        )


def is_selected(config: Mapping[str, Any], name: str) -> bool:
    """Whether a layer that `target_modules` means stays in under `exclude_modules` and `layers_to_transform`.

    The rules are those of PEFT's `check_target_module_exists`: a layer that is targeted by its full name needs no
    number, and the first number in a name is the block's.

    Args:
        config: the adapter's settings.
        name: the layer's full name in the file.

    Returns:
        True where the adapter has A and B for it.
    """
    excluded = config.get("exclude_modules") or []
    if isinstance(excluded, str):
        if re.fullmatch(excluded, name):
            return False
    elif any(name_ends_with(name, end) for end in excluded):
        return False
    targets, blocks = config.get("target_modules"), config.get("layers_to_transform")
    if blocks is None or blocks == [] or isinstance(targets, str) or name in (targets or []):
        return True
    patterns = config.get("layers_pattern") or [r"[^.]*"]
    patterns = [patterns] if isinstance(patterns, str) else patterns
    found = (re.match(rf"(?:.*?\.)?{pattern}\.(\d+)\.", name) for pattern in patterns)
    number = next((int(match.group(1)) for match in found if match), None)
    return number in (blocks if isinstance(blocks, list) else [blocks])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def initialisation(config: Mapping[str, Any]) -> str:
    """The setting init_lora_weights in small letters; "true" where the file does not say."""
    return str(config.get("init_lora_weights", True)).lower()


def is_relative(config: Mapping[str, Any]) -> bool:
    """Whether A and B belong to a base of which a part was taken out."""
    return config.get("peft_type") == "LORA" and initialisation(config) not in PLAIN


@torch.no_grad()
def as_plain_lora(
    folder: Path, layers: Mapping[str, nn.Module], config: dict, saved: dict[str, torch.Tensor], keys: Mapping[str, str]
) -> tuple[dict, dict[str, torch.Tensor]]:
    """The settings and tensors of a PiSSA or OLoRA adapter as a plain LoRA adapter of twice the rank.

    Args:
        folder: of the adapter, for errors.
        layers: the layers it belongs to, with the untouched base's weights, by their names in the model.
        config: its settings, with defaults.
        saved: its tensors: A (rank, in) and B (out, rank) for each layer.
        keys: for each layer its name in the file.

    Returns:
        The settings, with rank and alpha for the same scaling, and the tensors A (2 rank, in) and B (out, 2 rank).

    Raises:
        CourseError: a layer's weight is quantised, or OLoRA was used on GPT-2's transposed layers.
    """
    init, rank, alpha = initialisation(config), config["r"], config["lora_alpha"]
    scaling = alpha / (math.sqrt(rank) if config["use_rslora"] else rank)
    tensors = {}
    for name, layer in tqdm(layers.items(), desc=init, unit="layer", leave=False, delay=2, disable=None):
        weight = _weight(folder, name, layer, init, config)  # (out, in)
        A0, B0 = _taken_out(weight, rank, scaling, init)
        A = saved[f"{keys[name]}.lora_A.weight"].to(weight)  # (rank, in)
        B = saved[f"{keys[name]}.lora_B.weight"].to(weight)  # (out, rank)
        tensors[f"{keys[name]}.lora_A.weight"] = torch.cat([A, A0])  # (2 rank, in)
        tensors[f"{keys[name]}.lora_B.weight"] = torch.cat([B, -B0], dim=1)  # (out, 2 rank)
    # alpha' / (2 rank) = alpha / rank, and alpha' / sqrt(2 rank) = alpha / sqrt(rank) for rsLoRA
    alpha *= math.sqrt(2) if config["use_rslora"] else 2
    return config | {"r": 2 * rank, "lora_alpha": alpha, "init_lora_weights": True}, tensors


def _taken_out(weight: torch.Tensor, rank: int, scaling: float, init: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A0 (rank, in) and B0 (out, rank) of a weight (out, in), as PEFT initialises them.

    Signs of singular vectors and of Q's columns are a library's choice; the product B0 A0 does not depend on them.
    """
    if init == "pissa":
        U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
        # Half of each singular value goes into either factor, as a square root: scaling * B0 A0 = U S Vh, cut to rank.
        root = (S[:rank] / scaling).sqrt()
        return root[:, None] * Vh[:rank], U[:, :rank] * root
    Q, R = torch.linalg.qr(weight)
    return R[:rank], Q[:, :rank]


def _weight(folder: Path, name: str, layer: Any, init: str, config: Mapping[str, Any]) -> torch.Tensor:
    """The untouched base's weight, (out, in) in float32."""
    base = layer.base if isinstance(layer, AdaptedLayer) else layer
    if not base.weight.is_floating_point():
        raise CourseError(
            f"{folder} was made with init_lora_weights = {init!r}, whose base is computed from the full weights, and "
            f"{name} is quantised here: load the base in float32 or bfloat16."
        )
    if init == "olora" and (isinstance(base, Conv1D) or config.get("fan_in_fan_out")):
        # PEFT 0.21 decomposes the matrix as it is stored, (in, out), and takes the factors for those of (out, in).
        raise CourseError(
            f"{folder} was made with init_lora_weights = 'olora' on {name}, whose weight GPT-2 stores transposed. "
            "There PEFT's factors do not fit the weight, and the model that was trained cannot be made again. Train "
            "with another initialisation."
        )
    weight = base.weight.T if isinstance(base, Conv1D) else base.weight
    return weight.detach().float()
