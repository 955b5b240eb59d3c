"""Read runs: ours, PEFT's, or another program's log and adapter (`compare` compares them).

A run is a folder as `course align run` writes it, or whatever there is of one: a JSONL log or a bare one with lines
like `step 10 | loss: 3.89 | lr: 1e-4`, a .safetensors file, or a folder with both.

Left out: binary logs (TensorBoard's).
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from course_lib.errors import CourseError, printable

KEYS = {
    "step": ("step", "global_step", "iteration", "iter"),
    "loss": ("loss", "train_loss", "train/loss", "training_loss"),
    "lr": ("lr", "learning_rate"),
}
NUMBER = r"\s*[:=]?\s*([-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+|nan|inf))"
IN_TEXT = {
    "step": re.compile(r"\b(?:global[_ ])?(?:step|iteration|iter)\b" + NUMBER, re.IGNORECASE),
    "loss": re.compile(r"\b(?:train(?:ing)?[_/ ])?loss\b" + NUMBER, re.IGNORECASE),
    "lr": re.compile(r"\b(?:lr|learning[_ ]rate)\b" + NUMBER, re.IGNORECASE),
}
WRAPPERS = {"base_model", "model", "transformer", "module"}  # parts that programs put before a layer's name
Tensors = dict[str, tuple[Path, str]]  # plain name -> file, name there


@dataclass(frozen=True)
class Run:
    """What was found of a run.

    Attributes:
        name: its path, for messages.
        losses: nats per token, by step.
        rates: learning rates, by step.
        weights: the tensors of its end.
        gradients: tensors, by step.
        settings: as far as the run says.
        notes: what a reader should know about the files.
    """

    name: str
    losses: dict[int, float] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)
    weights: Tensors = field(default_factory=dict)
    gradients: dict[int, Tensors] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_run(path: Path | str) -> Run:
    """Read a folder or file.

    Args:
        path: a run's folder, a log, or a .safetensors file.

    Returns:
        What was found. Tensors are not read yet.

    Raises:
        CourseError: there is nothing of a run, or it is damaged.
    """
    path = Path(path)
    name = printable(str(path))
    if path.is_dir():
        log = _the_one(path, "loss.jsonl", ("*.jsonl", "*.log"))
        adapter = _the_one(path, "adapter_model.safetensors", ())
        weights = adapter or sorted(path.glob("model*.safetensors")) or _the_one(path, "", ("*.safetensors",))
        folders = {int(found[1]): file for file in path.glob("gradients/*.safetensors") if (found := _digits(file))}
        gradients = {step: index([file]) for step, file in sorted(folders.items())}
        run = Run(name, weights=index(weights), gradients=gradients, settings=_settings(path))
    elif path.is_file():
        log, run = ([], Run(name, weights=index([path]))) if path.suffix == ".safetensors" else ([path], Run(name))
    else:
        raise CourseError(f"There is no run {name}: give a folder, a log (JSONL or text) or a .safetensors file.")
    for file in log:
        _read_log(file, run)
    if not (run.losses or run.weights or run.gradients):
        raise CourseError(f"{name} holds no run: no .jsonl or .log file with losses, no .safetensors file.")
    return run


def _digits(file: Path) -> re.Match | None:
    return re.search(r"(\d{1,9})$", file.stem)


def _the_one(folder: Path, usual: str, patterns: Iterable[str]) -> list[Path]:
    """The file with the usual name, or the only one that a pattern finds; [] for none."""
    if (folder / usual).is_file():
        return [folder / usual]
    for pattern in patterns:
        if len(found := sorted(folder.glob(pattern))) > 1:
            names = printable(", ".join(path.name for path in found))
            raise CourseError(
                f"{printable(str(folder))} has several {pattern} files ({names}): name the one to compare."
            )
        if found:
            return found
    return []


def _read_log(file: Path, run: Run) -> None:
    """Fill in losses and rates. Of a step that occurs twice the last counts: a resumed run repeats steps."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CourseError(f"{printable(str(file))} is not UTF-8 text (byte {error.start}).") from None
    is_json = next((line.lstrip() for line in lines if line.strip()), "").startswith("{")
    repeated = 0
    for number, line in enumerate(lines, 1):
        place = f"{printable(str(file))}, line {number}"
        last = number == len(lines)
        found = _from_json(line, place, last) if is_json else _from_text(line)
        if "step" not in found or "loss" not in found:
            continue  # an evaluation, a heading
        if found["step"] != int(found["step"]):
            raise CourseError(f"{place}: a step is a whole number, not {found['step']}.")
        step = int(found["step"])
        repeated += step in run.losses
        run.losses[step] = found["loss"]
        if "lr" in found:
            run.rates[step] = found["lr"]
    if not run.losses:
        raise CourseError(f"{printable(str(file))} has no line with a step and a loss.")
    if repeated:
        run.notes.append(f"{run.name} has {repeated} steps more than once: the last of each counts.")


def _from_json(line: str, place: str, last: bool) -> dict[str, float]:
    try:
        entry = json.loads(line or "{}")
        entry = {key.lower(): value for key, value in entry.items()}
        written = {kind: next((entry[key] for key in keys if key in entry), None) for kind, keys in KEYS.items()}
        found = {kind: _number(value) for kind, value in written.items() if value is not None}
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
        if last:
            return {}  # cut short when the run was killed
        raise CourseError(f"{place}: this is not a JSON object with numbers for step and loss.") from None
    if not math.isfinite(found.get("step", 0)):
        raise CourseError(f"{place}: a step is a whole number, not {found['step']}.")
    return found


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError("true and false are not numbers")
    return float(value)


def _from_text(line: str) -> dict[str, float]:
    matches = {kind: pattern.search(line) for kind, pattern in IN_TEXT.items()}
    found = {kind: float(match[1]) for kind, match in matches.items() if match}
    return found if math.isfinite(found.get("step", 0)) else {}


def _settings(folder: Path) -> dict[str, str]:
    """run.json's settings with what was fingerprinted, or the adapter's own configuration."""
    about = _json_object(folder / "run.json")
    settings, data = (about[key] if isinstance(about.get(key), dict) else {} for key in ("settings", "data"))
    if "data" in settings:  # in runs of before 0.3.0
        settings = {key: value for key, value in settings.items() if key != "data"} | {"dataset": settings["data"]}
    adapter = _json_object(folder / "adapter_config.json")
    found = {"rank": adapter.get("r"), "alpha": adapter.get("lora_alpha"), "use_rslora": adapter.get("use_rslora")}
    found |= settings | {"base weights": about.get("base"), "start": about.get("start")}
    found |= {"token rows": data.get("fingerprint")}
    return {printable(str(key)): printable(_short(value)) for key, value in found.items() if value is not None}


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)[:80]


def _json_object(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CourseError(f"{printable(str(path))} is damaged: {type(error).__name__}.") from None
    return value if isinstance(value, dict) else {}


def index(files: Iterable[Path]) -> Tensors:
    """Where each tensor of .safetensors files is, by its plain name; none is read yet."""
    tensors: Tensors = {}
    for file in files:
        with opened(file) as content:
            for name in content.keys():  # noqa: SIM118 - no mapping
                plain = printable(plain_name(name))
                if plain in tensors:
                    raise CourseError(f"{printable(str(file))} has two tensors named {plain} but for their prefixes.")
                tensors[plain] = file, name
    return tensors


def plain_name(name: str) -> str:
    """A tensor's name without what programs wrap around it: PEFT's prefix, the adapter's name, ``model.``.

    >>> plain_name("base_model.model.transformer.h.0.attn.c_attn.lora_A.default.weight")
    'h.0.attn.c_attn.lora_A.weight'
    """
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in WRAPPERS:
        parts = parts[1:]
    return re.sub(r"(\.lora_[AB])(?:\.[^.]+)??(?:\.weight)?$", r"\1.weight", ".".join(parts))


def opened(file: Path) -> Any:
    """A .safetensors file, for reading; CourseError where it is damaged."""
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CourseError(f"{printable(str(file))} is not a complete .safetensors file ({error}).") from None
