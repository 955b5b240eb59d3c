"""What a run of `course train` has left, as adapters: its checkpoints, and the base that was made for it."""

import json
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from course_lib.adapters.files import CONFIG, PREFIX, WEIGHTS, adapter_config
from course_lib.adapters.guide import archive_as_adapter
from course_lib.errors import CourseError
from course_lib.files import refuse_filled, write_json
from course_lib.finetuning.folder import BASE, RUN, stored_settings


def run_settings(folder: Path) -> dict | None:
    """The settings of the run that made the adapter, where it lies in the run's folder."""
    try:
        return stored_settings(json.loads((folder / RUN).read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def named_base(folder: Path) -> str:
    """The base that an adapter was trained on: the one made for its run, which lies beside it, or as its file says."""
    if (Path(folder) / BASE / "config.json").is_file():  # wherever the run's folder has been moved
        return str(Path(folder) / BASE)
    name = adapter_config(folder).get("base_model_name_or_path")
    if not name:
        raise CourseError(f"{folder} does not say which model it belongs to: give --base.")
    return name


def as_adapter(path: Path, scratch: Path) -> Path:
    """`path` where it is the folder of an adapter; for a checkpoint or a .pt file a new folder below `scratch`."""
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
    """Rename the checkpoint's tensors as PEFT does, and write the settings of its run beside them, into `output`.

    Returns the number of parameters. CourseError where it is no adapter's checkpoint, or `output` is not empty.
    """
    folder = checkpoint.resolve().parent.parent
    run = run_settings(folder)
    if run is None or not is_checkpoint(checkpoint):
        raise CourseError(f"{checkpoint} is no checkpoint in the folder of a run of `course train`.")
    if run["mode"] == "full":
        raise CourseError(f"{checkpoint} holds a whole model's weights, and no adapter.")
    refuse_filled(output)
    try:
        tensors = load_file(checkpoint / "weights.safetensors")
    except SafetensorError as error:
        raise CourseError(f"{checkpoint} is damaged: {error}") from error
    output.mkdir(parents=True, exist_ok=True)
    save_file({peft_name(key): tensor for key, tensor in tensors.items()}, output / WEIGHTS)
    write_json(output / CONFIG, exported_config(run, checkpoint.parent.parent))
    return sum(tensor.numel() for tensor in tensors.values())


def peft_name(name: str) -> str:
    """A tensor's name in a checkpoint to that in an adapter's file."""
    name = re.sub(r"\.adapters\.default\.([AB])$", r".lora_\1.weight", name)
    return PREFIX + name.replace(".rotation.angles", ".butterfly.angles")


def exported_config(run: dict, folder: Path) -> dict:
    """adapter_config.json for the settings of a run in `folder`."""
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
