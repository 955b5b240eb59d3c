"""Checkpoints: one folder for each saved step, which is whole or not there at all.

step_000050/ holds `weights.safetensors` (what is trained), `optimizer.safetensors` (AdamW's moments, the float32
masters of 16-bit weights, the random state) and `state.json` (step, model). Nothing is pickled. A folder is filled
under another name and renamed, so a run that is killed at any moment leaves only whole ones. Several processes call
`save` and `load` together, and the first writes; what FSDP2 shards is gathered, so that a checkpoint does not depend on
how many processes wrote it.
"""

import errno
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from course_lib.errors import CourseError
from course_lib.files import apply_umask
from course_lib.models.fingerprint import fingerprint
from course_lib.training.distributed import World, distribute_like, full_tensor


class Checkpoints:
    """The checkpoints of one run: the newest few, and `best`.

    Only parameters that require gradients are saved. The others are frozen, and their fingerprint says which base an
    adapter belongs to.

    Args:
        folder: where the checkpoints lie, each in a folder of its own.
        model: the model that is trained. Its parameters are found by name.
        optimizer: AdamW over the trained parameters, in the model's order.
        keep: how many of the newest checkpoints stay, at least 1. `best` stays besides.
        world: this process among several.
    """

    def __init__(
        self,
        folder: Path | str,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        keep: int = 2,
        world: World = World(),  # noqa: B008 - frozen
    ):
        self.folder, self.optimizer, self.keep, self.world = Path(folder), optimizer, max(1, keep), world
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.base = fingerprint(full_tensor(p) for p in model.parameters() if not p.requires_grad)

    def save(self, step: int, extra: dict | None = None, name: str | None = None) -> Path:
        """Write the state of the run. All processes call this together, and the first one writes.

        Args:
            step: how many steps have been done.
            extra: JSON values that `load` returns again.
            name: the folder's name. None: step_000050 for step 50, and older checkpoints are removed.

        Returns:
            The folder of the checkpoint.

        Raises:
            CourseError: it cannot be written: the disk is full. The checkpoints before it are as they were.
        """
        # Gathering needs every process, so it comes before the question of who writes.
        target = self.folder / (name or f"step_{step:06d}")
        weights = {name: full_tensor(p.detach()).contiguous() for name, p in self.parameters.items()}
        moments = self._moments() | _random_states(self.world)
        if self.world.is_main:
            state = {"step": step, "base": self.base, "moments": len(moments), "extra": extra or {}}
            self._write(target, weights, moments, state)
            if name is None:
                self._forget_old()
        self.world.barrier()
        return target

    def _write(self, target: Path, weights: dict, moments: dict, state: dict) -> None:
        temporary = self.folder / f".{target.name}.{os.getpid()}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            save_file(weights, temporary / "weights.safetensors")
            save_file(moments, temporary / "optimizer.safetensors")
            (temporary / "state.json").write_text(json.dumps(state))
            apply_umask(temporary)
            _move(temporary, target)  # only now does the folder have a name that `newest` finds
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)  # half a checkpoint would fill the disk for the next try, too
            if not _is_full(error):
                raise
            raise CourseError(
                f"{target.name} could not be written: the disk of {self.folder} is full ({error}). Make room there, "
                "give a smaller --keep, or another folder (on a cluster $SCRATCH), and go on with --resume: the "
                "checkpoints before it are whole."
            ) from error

    def load(self, folder: Path | None = None) -> dict | None:
        """Restore the newest checkpoint (or `folder`) into model, optimiser and random generators.

        Args:
            folder: one checkpoint. None: the one with the most steps.

        Returns:
            {"step", "extra"} as they were saved, or None where there is no checkpoint yet.

        Raises:
            CourseError: the checkpoint is damaged or belongs to another model. Nothing has been changed then.
        """
        folder = folder or self.newest()
        if folder is None:
            return None
        state, weights, moments = _read(folder)
        self._check(folder, state, weights, moments)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(distribute_like(weights[name], parameter))
        self._restore_moments(moments)
        _restore_random(moments, self.world.rank)
        return {"step": state["step"], "extra": state["extra"]}

    def newest(self) -> Path | None:
        """The folder of the checkpoint with the most steps."""
        return max(self.folder.glob("step_??????"), default=None, key=lambda path: path.name)

    def _check(
        self, folder: Path, state: dict, weights: dict[str, torch.Tensor], moments: dict[str, torch.Tensor]
    ) -> None:
        for name in sorted(self.parameters.keys() | weights.keys()):
            ours, theirs = (
                tuple(side[name].shape) if name in side else "absent" for side in (self.parameters, weights)
            )
            if ours != theirs:
                raise CourseError(f"{folder} is of another model or adapter: {name} is {theirs} there and {ours} here.")
        if state["base"] != self.base:
            raise CourseError(
                f"{folder} belongs to another base model: the frozen weights' fingerprints differ. Load the base that "
                "the run began with."
            )
        # A parameter without moments is one that had no gradient yet, so their number alone tells that some are lost.
        if len(moments) != state.get("moments", len(moments)):
            raise CourseError(
                f"{folder} is damaged: optimizer.safetensors has {len(moments)} tensors, and {state['moments']} were "
                "written. Delete that folder to go on from the checkpoint before it."
            )

    def _moments(self) -> dict[str, torch.Tensor]:
        return {
            f"{name}/{key}": full_tensor(value).contiguous()
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def _restore_moments(self, saved: dict[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            keys = (key.rpartition("/") for key in saved if key.startswith(f"{name}/"))
            state = {key: saved[f"{prefix}/{key}"] for prefix, _, key in keys if prefix == name}
            if state:
                # "step" is a scalar that AdamW counts in; the moments have the parameter's shape and sharding.
                place = {k: value if k == "step" else distribute_like(value, parameter) for k, value in state.items()}
                self.optimizer.state[parameter] = place

    def _forget_old(self) -> None:
        for path in sorted(self.folder.glob("step_??????"))[: -self.keep]:
            _remove(path)


def _random_states(world: World) -> dict[str, torch.Tensor]:
    """The states of all processes, whose dropout differs: "rng.cpu" of the first, "rng.cpu.1" of the second, ..."""
    state = {"rng.cpu": torch.get_rng_state()}
    state |= {"rng.cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    states = enumerate(world.gather(state))
    return {f"{key}.{rank}" if rank else key: value for rank, each in states for key, value in each.items()}


def _restore_random(saved: dict[str, torch.Tensor], rank: int) -> None:
    """Restore this process's state; one that did not exist when the checkpoint was written keeps its own."""
    ending = f".{rank}" if rank else ""
    if f"rng.cpu{ending}" in saved:
        torch.set_rng_state(saved[f"rng.cpu{ending}"])
    if torch.cuda.is_available() and f"rng.cuda{ending}" in saved:
        torch.cuda.set_rng_state(saved[f"rng.cuda{ending}"])


def _read(folder: Path) -> tuple[dict, dict, dict]:
    try:
        state = json.loads((folder / "state.json").read_text())
        return state, load_file(folder / "weights.safetensors"), load_file(folder / "optimizer.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise CourseError(
            f"{folder} cannot be read as a checkpoint of this Trainer ({error}). If it was cut short, move that folder "
            "away to go on from the one before it."
        ) from error


def _is_full(error: Exception) -> bool:
    """Whether the disk or the user's quota is used up. safetensors has an error of its own, with a text alone."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)


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
