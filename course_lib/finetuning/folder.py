"""The folder of a training run: what it holds, whose it is, and where a run that was interrupted goes on.

run.json                     every setting, and the held-out loss before training
log.jsonl, loss.png          each step's loss, learning rate, norm, time and memory; the curve
checkpoints/                 where --resume goes on, bit for bit; `best` after evaluations
summary.json                 what came out
adapter_model.safetensors    the adapter, with adapter_config.json (PEFT's layout); or for mode full
model.safetensors            the model, with config.json and the tokenizer (Hugging Face's layout)
base/                        the untrained model, where it was made for this run
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from course_lib.errors import CourseError
from course_lib.finetuning.settings import FREE, Settings, complete

RUN, LOG, SUMMARY, PLOT = "run.json", "log.jsonl", "summary.json", "loss.png"
CHECKPOINTS, BASE = "checkpoints", "base"
BEFORE = {"too_long": "cut-end", "format": "auto", "map": None}  # what version 0.1 did, before these were settings
RENAMED = {  # in version 0.2
    "dropout": "lora_dropout",
    "rslora": "use_rslora",
    "targets": "target_modules",
    "stages": "butterfly_stages",
    "block_size": "butterfly_block_size",
    "floor": "min_lr_ratio",
    "clip": "max_grad_norm",
    "accumulate": "grad_accum_steps",
    "target_tokens": "tokens_per_step",
    "checkpoint_activations": "gradient_checkpointing",
}


def claim(folder: Path, explicit: dict, resume: bool, force: bool) -> tuple[Settings, dict]:
    """The settings of the run in `folder`, and what its run.json says besides; nothing where it is new.

    A new run takes an empty or absent folder. resume: go on with the settings in run.json; what is given again must
    agree, but for threads, device and how often to save. force: what an earlier run left is removed by `clear`.
    Raises CourseError where the folder is another's. Nothing is written.
    """
    path = folder / RUN
    filled = folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir())
    if folder.exists() and not folder.is_dir():
        raise CourseError(f"{folder} is a file: --output wants a folder.")
    if resume and path.is_file():
        return _resumed(path, explicit)
    if filled and not force:
        what = "a run already: --resume goes on with it, --force replaces it" if path.is_file() else "other files"
        raise CourseError(f"{folder} holds {what}; or choose another --output.")
    return complete(explicit), {}


def _resumed(path: Path, explicit: dict) -> tuple[Settings, dict]:
    try:
        known = json.loads(path.read_text())
        stored = stored_settings(known)
        settings = replace(complete({"mode": stored["mode"]}), **stored)
    except (ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{path} is no record of a run ({error}): start anew with --force.") from error
    for key, value in explicit.items():
        if key not in FREE and value != stored[key]:
            option = key.replace("_", "-")
            raise CourseError(
                f"{path.parent} was begun with --{option} {stored[key]}, not {value}: it cannot go on so."
            )
    return replace(settings, **{key: explicit[key] for key in FREE & explicit.keys()}), known


def stored_settings(known: dict) -> dict:
    """The settings in a run.json by today's names: version 0.1 had others."""
    stored = dict(BEFORE)
    for key, value in known["settings"].items():
        stored[RENAMED.get(key, key)] = tuple(value) if isinstance(value, list) else value
    return stored


def clear(folder: Path) -> None:
    """Remove what an earlier run left in `folder`, by its names, and nothing else."""
    for name in (RUN, LOG, SUMMARY, PLOT, "adapter_model.safetensors", "adapter_config.json"):
        (folder / name).unlink(missing_ok=True)
    for name in (CHECKPOINTS, BASE):
        shutil.rmtree(folder / name, ignore_errors=True)
    for pattern in ("model*.safetensors", "model.safetensors.index.json", "config.json"):
        for path in folder.glob(pattern):
            path.unlink()
