"""The folder of a training run: what it holds, which run owns it, and where an interrupted run goes on.

run.json                     every setting, and the held-out loss before training
log.jsonl, loss.png          each step's loss, learning rate, norm, time and memory; the curve
checkpoints/                 where --resume goes on, bit for bit; `best` after evaluations
summary.json                 what came out
adapter_model.safetensors    the adapter, with adapter_config.json (PEFT's layout); or for mode full
model.safetensors            the model, with config.json and the tokenizer (Hugging Face's layout)
base/                        the untrained model, where it was made for this run
"""

import difflib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError
from course_lib.finetuning.settings import FREE, Settings, complete
from course_lib.options import check_options, flag_of

RUN_FILE, LOG, SUMMARY, PLOT = "run.json", "log.jsonl", "summary.json", "loss.png"
CHECKPOINTS, BASE = "checkpoints", "base"
BEFORE = {  # what earlier versions did, before these were settings
    "too_long": "cut-end",
    "format": "auto",
    "map": None,
    "backend": "bitsandbytes",
    "quant_type": "nf4",
    "double_quant": True,
}
LEFT_BY_A_RUN = (
    *("adapter_model.safetensors", "adapter_config.json"),
    *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    *("vocab.json", "merges.txt", "bpe_tokenizer.json"),
    *("reference.safetensors", "reference_held_out.safetensors"),
    *(LOG, SUMMARY, PLOT, RUN_FILE),  # run.json last: it says whose the folder is, also when this is cut short
)
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


class OtherStage(CourseError):
    """The run in a folder is of another command."""


def claim(
    folder: Path, explicit: dict, resume: bool | str, force: bool, kind: type[Settings] = Settings
) -> tuple[Settings, dict]:
    """The settings of the run in `folder`, and what its run.json says besides. Nothing is written.

    Args:
        folder: for a new run absent or empty.
        explicit: the settings that were given.
        resume: go on with the settings in run.json. What is given again has to agree, but for those that change
            neither the numbers nor the files. "auto": begin where there is no run yet, so that a cluster can send one
            command again and again; but see `_refuse_mistyped`.
        force: accept what an earlier run left there; `clear` removes it later.
        kind: the class of the command's settings.

    Returns:
        The complete settings, and the content of run.json, which is empty for a new run.

    Raises:
        CourseError: the folder is another's, or settings disagree or exclude each other.
    """
    path = folder / RUN_FILE
    if folder.exists() and not folder.is_dir():
        raise CourseError(f"{folder} is a file. Give --output a folder.")
    if resume and path.is_file():
        return _resumed(path, explicit, kind)
    if resume == "auto":
        _refuse_mistyped(folder, explicit)
    elif resume:
        raise CourseError(
            f"{folder} holds no run to resume.{_runs_beside(folder)} Leave --resume out to begin one there, or "
            "give --resume auto, which starts a run or continues it."
        )
    filled = folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir())
    if filled and not force:
        if path.is_file():
            raise CourseError(
                f"{folder} holds a run already. --resume continues it, --force replaces it; or choose another --output."
            )
        raise CourseError(f"{folder} holds other files, and no run. Choose another --output.")
    settings = complete(explicit, kind)
    if filled:
        _refuse_to_clear(folder, settings)
    return settings, {}


def _refuse_to_clear(folder: Path, settings: Settings) -> None:
    """CourseError where --force would remove what is not a run's, or what the new run reads."""
    foreign = [path.name for pattern in LEFT_BY_A_RUN for path in folder.glob(pattern)]
    if foreign and not (folder / RUN_FILE).is_file():
        raise CourseError(
            f"{folder} holds {foreign[0]} and no {RUN_FILE}: it is not the folder of a run, so --force does not "
            "replace it. Choose another --output."
        )
    for name in ("model", "tokenizer", "dataset", "weights"):
        value = getattr(settings, name)
        read = Path(value or "").resolve()
        if value and read.exists() and folder.resolve() in (read, *read.parents):
            raise CourseError(
                f"{flag_of(name)} {value} lies in {folder}, which --force would clear. Choose another --output."
            )


def _refuse_mistyped(folder: Path, explicit: dict) -> None:
    """CourseError where --resume auto names a folder without a run and was meant for another one.

    That is so where nothing says what a new run should train on, and where a folder of a similar name holds a run with
    just these settings.
    """
    runs, similar = _similar_runs(folder)
    meant = [name for name in similar if _agrees(runs[name] / RUN_FILE, explicit)]
    if "dataset" in explicit and not meant:
        return
    hint = f" Did you mean {_listed(folder, meant)}?" if meant else _runs_beside(folder)
    without = "Without --resume" if meant else "With --dataset, or without --resume,"
    raise CourseError(f"{folder} holds no run to resume.{hint} {without} a new run begins there.")


def _similar_runs(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The runs beside `folder` by name, and the names that are like its own."""
    runs = {path.parent.name: path.parent for path in folder.absolute().parent.glob(f"*/{RUN_FILE}")}
    return runs, difflib.get_close_matches(folder.name, runs, n=3, cutoff=0.5)


def _runs_beside(folder: Path) -> str:
    """A sentence about the runs that may have been meant, with a blank before it; empty where there is none."""
    runs, similar = _similar_runs(folder)
    if similar:
        return f" Did you mean {_listed(folder, similar)}?"
    return (
        f" The runs beside it are {', '.join(str(folder.parent / name) for name in sorted(runs)[:5])}." if runs else ""
    )


def _listed(folder: Path, names: list[str]) -> str:
    return " or ".join(str(folder.parent / name) for name in names)


def _agrees(path: Path, explicit: dict) -> bool:
    """Whether the run of the run.json at `path` has all these settings."""
    try:
        stored = stored_settings(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return all(stored.get(name) == value for name, value in explicit.items() if name not in FREE)


def _resumed(path: Path, explicit: dict, kind: type[Settings]) -> tuple[Settings, dict]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        _refuse_other_stage(path.parent, known, kind)
        stored = stored_settings(known)
        settings = replace(complete({"mode": stored["mode"]}, kind), **stored)
        check_options(settings)
    except OtherStage:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CourseError) as error:
        raise CourseError(f"{path} is not the record of a run ({error}). Start again with --force.") from error
    for name, value in explicit.items():
        begun = getattr(settings, name)
        if name not in FREE and value != begun:
            raise CourseError(
                f"{path.parent} was begun with {flag_of(name)} {begun}, not {value}: it cannot continue with another "
                f"value. Leave {flag_of(name)} out, or choose another --output."
            )
    return replace(settings, **{name: explicit[name] for name in FREE & explicit.keys()}), known


def _refuse_other_stage(folder: Path, known: dict, kind: type[Settings]) -> None:
    """OtherStage where the run in a folder is another command's."""
    stage = known.get("stage", Settings.STAGE)
    if stage != kind.STAGE:
        raise OtherStage(
            f"{folder} holds a run of course {stage}, and course {kind.STAGE} cannot continue it. Give course "
            f"{stage} --resume there, or choose another --output."
        )


def stored_settings(known: dict) -> dict:
    """The settings in a run.json by today's names: version 0.1 had others."""
    stored: dict[str, Any] = dict(BEFORE)
    for key, value in known["settings"].items():
        stored[RENAMED.get(key, key)] = tuple(value) if isinstance(value, list) else value
    return stored


def base_beside(adapter: Path) -> str | None:
    """The untrained model that a run has made for its adapter, wherever the run's folder has been moved."""
    return str(adapter / BASE) if (adapter / BASE / "config.json").is_file() else None


def refuse_foreign_base(adapter: Path, name: str, option: str) -> None:
    """Refuse an adapter whose base is a folder of another machine.

    Args:
        adapter: the adapter's folder.
        name: of the base, as the adapter's file has it.
        option: the option of the command that names the base.

    Raises:
        CourseError: it is such a folder.
    """
    like_a_folder = name.startswith(("/", ".", "~")) or "\\" in name or name.count("/") > 1
    if like_a_folder and not Path(name).is_dir():
        raise CourseError(
            f"{adapter / 'adapter_config.json'} names the base {name}, a folder that is not on this machine: give "
            f"{option} with that model's folder or name here."
        )


def clear(folder: Path) -> None:
    """Remove what an earlier run left in `folder`, by its names, and nothing else.

    All of a model goes, its shards, tokenizer and generation settings too: what stays would be loaded with the next
    model, or instead of it.
    """
    for name in (CHECKPOINTS, BASE):
        shutil.rmtree(folder / name, ignore_errors=True)
    for pattern in LEFT_BY_A_RUN:
        for path in folder.glob(pattern):
            path.unlink()
