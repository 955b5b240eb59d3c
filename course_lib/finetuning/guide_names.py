"""The names that LoRA guides give to files, and what of a run of `course train` they mean. Cheap: no torch.

    lora_checkpoints/lora_final.pt         the adapter of the run in lora_checkpoints
    lora_checkpoints/lora_step_00250.pt    its checkpoint: lora_checkpoints/checkpoints/step_000250

The guide's trainer writes into lora_checkpoints where nothing else is said, and ours into runs/MODE-DATASET. So where
there is no folder lora_checkpoints, that name stands for the LoRA run below runs/ that was begun last.
"""

import json
import re
from pathlib import Path

from course_lib.finetuning.folder import CHECKPOINTS, RUN_FILE
from course_lib.finetuning.settings import LORA_MODES
from course_lib.models.folder import GUIDE_ADAPTER, is_adapter

FOLDER = Path("lora_checkpoints")
STEP = re.compile(r"lora_step_(\d+)\.pt")


def meant_by_guide(path: Path) -> Path | None:
    """What a guide's file name means where there is no such file.

    Args:
        path: an adapter as it was named.

    Returns:
        The folder of an adapter or of a checkpoint; None where the name is not a guide's, or no run has it.
    """
    step = STEP.fullmatch(path.name)
    if path.exists() or not (step or path.name == GUIDE_ADAPTER):
        return None
    folder: Path | None = path.parent
    if path.parent == FOLDER and not FOLDER.exists():
        folder = _newest_lora_run()
    if folder is None or not (folder / RUN_FILE).is_file():
        return None
    if step is None:
        return folder if is_adapter(folder) else None
    checkpoint = folder / CHECKPOINTS / f"step_{int(step[1]):06d}"
    return checkpoint if checkpoint.is_dir() else None


def _newest_lora_run() -> Path | None:
    """The LoRA run below runs/ that was begun last: run.json is written when a run begins."""
    found = []
    for about in Path("runs").glob(f"*/{RUN_FILE}"):
        try:
            mode = json.loads(about.read_text(encoding="utf-8"))["settings"]["mode"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it is damaged, or of another kind
        if mode in LORA_MODES:
            found.append((about.stat().st_mtime, about.parent))
    return max(found)[1] if found else None
