"""Checkpoints: a folder a step, whole or not there at all.

step_000050/ holds `weights.safetensors` (what is trained), `optimizer.safetensors` (AdamW's moments) and `state.json`
(step, model, random state). Nothing is pickled. A folder is filled under another name and renamed, so a run that is
killed at any moment leaves only whole ones.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from course_lib.errors import CourseError
from course_lib.models.fingerprint import fingerprint


class Checkpoints:
    """The checkpoints of one run in `folder`: the newest `keep`, and `best`.

    parameters: by name, those that are trained; the optimiser's are the same, in the same order. frozen: the others,
    whose fingerprint says which base an adapter belongs to.
    """

    def __init__(self, folder: Path | str, model: nn.Module, optimizer: torch.optim.Optimizer, keep: int = 2):
        self.folder, self.optimizer, self.keep = Path(folder), optimizer, max(1, keep)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.base = fingerprint(p for p in model.parameters() if not p.requires_grad)

    def save(self, step: int, extra: dict | None = None, name: str | None = None) -> Path:
        """Write the state after `step` steps; returns the folder. extra: JSON values to find again when resuming."""
        target = self.folder / (name or f"step_{step:06d}")
        temporary = self.folder / f".{target.name}.{os.getpid()}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file({k: p.detach().contiguous() for k, p in self.parameters.items()}, temporary / "weights.safetensors")
        save_file(self._moments() | _random_state(), temporary / "optimizer.safetensors")
        state = {"step": step, "base": self.base, "extra": extra or {}}
        (temporary / "state.json").write_text(json.dumps(state))
        _move(temporary, target)
        if name is None:
            self._forget_old()
        return target

    def load(self, folder: Path | None = None) -> dict | None:
        """Restore the newest checkpoint (or `folder`) into model, optimiser and random generators.

        Returns {"step", "extra"}, or None where there is no checkpoint yet. CourseError, before anything is changed,
        where it is of another model.
        """
        folder = folder or self.newest()
        if folder is None:
            return None
        state, weights, moments = _read(folder)
        self._check(folder, state, weights)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])
        self._restore_moments(moments)
        torch.set_rng_state(moments["rng.cpu"])
        if torch.cuda.is_available() and "rng.cuda" in moments:
            torch.cuda.set_rng_state(moments["rng.cuda"])
        return {"step": state["step"], "extra": state["extra"]}

    def newest(self) -> Path | None:
        """The folder of the checkpoint with the most steps."""
        return max(self.folder.glob("step_??????"), default=None, key=lambda path: path.name)

    def _check(self, folder: Path, state: dict, weights: dict[str, torch.Tensor]) -> None:
        for name in sorted(self.parameters.keys() | weights.keys()):
            ours, theirs = (
                tuple(side[name].shape) if name in side else "absent" for side in (self.parameters, weights)
            )
            if ours != theirs:
                raise CourseError(f"{folder} is of another model or adapter: {name} is {theirs} there and {ours} here.")
        if state["base"] != self.base:
            raise CourseError(f"{folder} belongs to another base model: the frozen weights' fingerprints differ.")

    def _moments(self) -> dict[str, torch.Tensor]:
        return {
            f"{name}/{key}": value.contiguous()
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def _restore_moments(self, saved: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            keys = (key.rpartition("/") for key in saved if key.startswith(f"{name}/"))
            state = {key: saved[f"{prefix}/{key}"] for prefix, _, key in keys if prefix == name}
            if state:
                place = {key: value if key == "step" else value.to(parameter.device) for key, value in state.items()}
                self.optimizer.state[parameter] = place

    def _forget_old(self) -> None:
        for path in sorted(self.folder.glob("step_??????"))[: -self.keep]:
            _remove(path)


def _random_state() -> dict[str, torch.Tensor]:
    state = {"rng.cpu": torch.get_rng_state()}
    return state | ({"rng.cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _read(folder: Path) -> tuple[dict, dict, dict]:
    try:
        state = json.loads((folder / "state.json").read_text())
        return state, load_file(folder / "weights.safetensors"), load_file(folder / "optimizer.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise CourseError(f"{folder} is no whole checkpoint of this Trainer ({error}).") from error


def _move(source: Path, target: Path) -> None:
    """Rename a folder to `target`, putting aside what may be there."""
    if target.exists():
        _remove(target)
    os.replace(source, target)


def _remove(folder: Path) -> None:
    """Rename first: a folder that is half deleted must not look like a checkpoint."""
    trash = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    os.replace(folder, trash)
    shutil.rmtree(trash, ignore_errors=True)
