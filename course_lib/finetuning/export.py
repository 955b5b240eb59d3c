"""Find what a run of `course train` has left: its checkpoints, as adapters, and the base that was made for it."""

import filecmp
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from course_lib.adapters.files import CONFIG, PREFIX, WEIGHTS, adapter_config, weights_file
from course_lib.adapters.guide import archive_as_adapter
from course_lib.adapters.trained_on import as_record, recorded_quantization
from course_lib.errors import CourseError
from course_lib.files import apply_umask, refuse_filled, write_json
from course_lib.finetuning.folder import BASE, RUN_FILE, base_beside, refuse_foreign_base, stored_settings
from course_lib.models.pretrained import PACKAGED, resolve


def run_settings(folder: Path) -> dict | None:
    """The settings of the run that made an adapter; None where the folder is not a run's."""
    try:
        return stored_settings(json.loads((folder / RUN_FILE).read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def settings_of_adapter(path: Path) -> dict | None:
    """The settings of the run that made an adapter or a Trainer's checkpoint; None where no run is known."""
    return run_settings(path.resolve().parent.parent if is_checkpoint(path) else path)


def quantization_of_adapter(path: Path, folder: Path) -> dict[str, Any] | None:
    """How the base was quantised that an adapter was trained on.

    Args:
        path: what the user named: an adapter's folder, a Trainer's checkpoint or a .pt file.
        folder: the adapter's folder that `as_adapter` made of it.

    Returns:
        The arguments of `load_dequantized`; None where the base was in full precision, or where neither the file nor
        a run beside it says anything else.

    Raises:
        CourseError: the adapter's file is damaged.
    """
    run = settings_of_adapter(path)
    known = recorded_quantization(weights_file(folder))
    if known is None and run is not None and run["mode"] == "qlora":  # files of earlier versions have no record
        known = _quantization_of_run(run)
    if known is None:
        return None
    known = {"dtype": run["dtype"] if run else "float32"} | known
    names = ["quant_type", "block_size", "double_quant", "dtype"]
    # Older files do not say which layers were left out. It was the head, and the same has to be equal.
    if known.get("skip", ["lm_head"]) != ["lm_head"]:
        names.append("skip")
    return {name: known[name] for name in names}


def _quantization_of_run(run: dict) -> dict[str, Any]:
    """The arguments of `load_quantized` for the base of a run of mode qlora: all have blocks of 64."""
    about = {name: run[name] for name in ("quant_type", "double_quant", "dtype")}
    return about | {"block_size": 64}


def named_base(folder: Path) -> str:
    """The base that an adapter was trained on: the one made for its run, or else the one that its file names.

    It raises CourseError where the file names none, or a folder that is not on this machine.
    """
    name = _base_in_file(folder)
    if not name:
        raise CourseError(f"{folder} does not say which model it belongs to: give --base.")
    refuse_foreign_base(Path(folder), name, "--base")
    return name


def _base_in_file(folder: Path) -> str | None:
    return base_beside(Path(folder)) or adapter_config(folder).get("base_model_name_or_path")


def common_base(adapters: Mapping[str, Path]) -> str:
    """The one base that all adapters were trained on.

    Args:
        adapters: their folders, by the names that the user gave.

    Returns:
        The base's name or folder.

    Raises:
        CourseError: an adapter does not name its base, or two name different ones.
    """
    first, *_ = adapters
    base = named_base(adapters[first])
    for name, other in other_bases(base, adapters).items():
        raise CourseError(
            f"{first} was trained on {base}, and {name} on {other}. Compare adapters of one base at a time, or name "
            "the base of all by --base."
        )
    return base


def other_bases(base: str, adapters: Mapping[str, Path]) -> dict[str, str]:
    """The adapters that were trained on another base than `base`, each with that base's name.

    Args:
        base: a model's name or folder.
        adapters: their folders, by the names that the user gave. One that does not name its base counts as fitting,
            and one that names a folder of another machine does not.

    Returns:
        The bases that are not `base`, by the names of their adapters.
    """
    # A folder of another machine is not refused: it is why --base was given.
    bases = {name: _base_in_file(folder) for name, folder in adapters.items()}
    return {name: other for name, other in bases.items() if other and not _same_model(base, other)}


def _same_model(one: str, other: str) -> bool:
    """Whether two names mean one model: the same folder, or folders whose weights are the same bytes."""
    if one == other:
        return True
    folders = _local_folder(one), _local_folder(other)
    if folders[0] is None or folders[1] is None:
        return False
    if folders[0].resolve() == folders[1].resolve():
        return True
    weights = [sorted(folder.glob("*.safetensors")) for folder in folders if folder]
    if [path.stat().st_size for path in weights[0]] != [path.stat().st_size for path in weights[1]]:
        return False
    return all(filecmp.cmp(a, b, shallow=False) for a, b in zip(*weights, strict=True))


def _local_folder(name: str) -> Path | None:
    """Where the model lies on this machine; None where it does not. Nothing is downloaded."""
    if Path(name).is_dir():
        return Path(name)
    if name.lower() in PACKAGED:
        return resolve(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except Exception:  # the hub's client raises many kinds: not in the cache, no possible name
        return None


def as_adapter(path: Path, scratch: Path) -> Path:
    """The folder of an adapter, which is made for a checkpoint or a .pt file.

    Args:
        path: an adapter's folder, a Trainer's checkpoint, or a .pt file.
        scratch: where a new folder may be made.

    Returns:
        `path` itself where it is an adapter's folder, or else the new folder.
    """
    if path.suffix == ".pt":
        return archive_as_adapter(path, scratch / path.stem)
    if not is_checkpoint(path):
        return path
    export(path, scratch / path.resolve().name)
    return scratch / path.resolve().name


def is_checkpoint(folder: Path) -> bool:
    """Whether `folder` is a Trainer's checkpoint."""
    return (Path(folder) / "weights.safetensors").is_file()


def export(checkpoint: Path, output: Path) -> int:
    """Write a checkpoint as an adapter: its tensors under PEFT's names, and the settings of its run beside them.

    Args:
        checkpoint: a Trainer's checkpoint in the folder of a run of `course train`.
        output: the adapter's folder, new or empty.

    Returns:
        The number of the adapter's parameters.

    Raises:
        CourseError: the checkpoint is damaged or not an adapter's, or `output` is not empty.
    """
    folder = checkpoint.resolve().parent.parent
    run = run_settings(folder)
    if run is None or not is_checkpoint(checkpoint):
        raise CourseError(f"{checkpoint} is not a checkpoint in the folder of a run of `course train`.")
    if run["mode"] == "full":
        raise CourseError(f"{checkpoint} holds the weights of a whole model, not of an adapter.")
    refuse_filled(output)
    try:
        tensors = load_file(checkpoint / "weights.safetensors")
    except SafetensorError as error:
        raise CourseError(f"{checkpoint} is damaged: {error}") from error
    output.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt"}
    if run["mode"] == "qlora":
        metadata |= as_record(_quantization_of_run(run))
    save_file({peft_name(key): tensor for key, tensor in tensors.items()}, output / WEIGHTS, metadata=metadata)
    apply_umask(output / WEIGHTS)
    write_json(output / CONFIG, exported_config(run, checkpoint.parent.parent))
    return sum(tensor.numel() for tensor in tensors.values())


def peft_name(name: str) -> str:
    """A tensor's name in an adapter's file, from its name in a checkpoint."""
    name = re.sub(r"\.adapters\.default\.([AB])$", r".lora_\1.weight", name)
    return PREFIX + name.replace(".rotation.angles", ".butterfly.angles")


def exported_config(run: dict, folder: Path) -> dict:
    """What adapter_config.json says of a run's adapter.

    Args:
        run: the run's settings, by name.
        folder: the run's folder, where its own base lies if there is one.

    Returns:
        The content of the file, in PEFT's layout.
    """
    base = folder / BASE
    if run["mode"] in ("lora", "qlora"):
        transposed = any(
            target.split(".")[-1].startswith("c_") for target in run["target_modules"]
        )  # GPT-2's c_attn, c_proj
        method = {
            "peft_type": "LORA",
            "r": run["rank"],
            "lora_alpha": run["alpha"],
            "lora_dropout": run["lora_dropout"],
        }
        method |= {"use_rslora": run["use_rslora"], "fan_in_fan_out": transposed, "bias": "none"}
    else:
        method = {
            "peft_type": "BUTTERFLY",
            "stages": run["butterfly_stages"],
            "block_size": run["butterfly_block_size"],
        }
    return method | {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base) if base.is_dir() else run["model"],
        "target_modules": run["target_modules"],
        "inference_mode": True,
    }
