"""Profiles: the sizes of a run. The notebook's text is the same on a laptop and on a node; only this changes."""

import os
import sys
import tomllib
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError
from course_lib.seeding import seed_everything


class MissingSetting(CourseError, AttributeError):
    """A setting that the profile does not have: an AttributeError too, so that hasattr and getattr work."""


@dataclass(frozen=True)
class Profile:
    """Settings of one chapter, read as attributes: `settings.steps`."""

    name: str
    values: dict = field(default_factory=dict)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):  # not ours: pickle, copy and IPython look for these
            raise AttributeError(key)
        try:
            return self.values[key]
        except KeyError:
            raise MissingSetting(
                f"Profile {self.name!r} has no setting {key!r}; it has: {', '.join(self.values)}."
            ) from None

    def __repr__(self) -> str:
        return "\n".join([f"profile {self.name}", *(f"  {key:15} {value}" for key, value in self.values.items())])

    def seed_everything(self, seed: int) -> None:
        """Seed Python, NumPy and torch; give torch this profile's threads, at most as many as there are cores."""
        import torch

        seed_everything(seed)
        torch.set_num_threads(min(self.threads, os.cpu_count() or 1))


def available_profiles() -> dict[str, str]:
    """Name -> description of the profiles that the package carries."""
    folder = files("course_lib.execution") / "profiles"
    found = (path for path in folder.iterdir() if path.name.endswith(".toml"))
    return {path.name.removesuffix(".toml"): tomllib.loads(path.read_text())["description"] for path in found}


def profile_path(name: str) -> Path:
    """The TOML file of a profile: one of ours by name, or a user's own by path."""
    if name.endswith(".toml"):
        path = Path(name)
    else:
        path = Path(str(files("course_lib.execution") / "profiles" / f"{name}.toml"))
    if not path.is_file():
        known = ", ".join(sorted(available_profiles()))
        raise CourseError(f"There is no profile {name!r}: choose one of {known}, or give the path of a TOML file.")
    return path


def load_profile(name: str, chapter: str | None = None) -> Profile:
    """The settings of `chapter` in profile `name`: the file's top level, overlaid by the chapter's own table.

    A profile whose device is "cuda" is refused on a machine where torch sees no GPU.
    """
    path = profile_path(name)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise CourseError(f"Profile {path} is not valid TOML: {error}.") from error
    shared = {key: value for key, value in table.items() if not isinstance(value, dict)}
    if chapter is not None and chapter not in table:
        raise CourseError(f'Profile {name!r} has no table ["{chapter}"], so it does not say how large to run it.')
    profile = Profile(path.stem, shared | table.get(chapter or "", {}))
    if profile.device == "cuda":
        _require_cuda(name)
    return profile


def _require_cuda(name: str) -> None:
    import torch

    if not torch.cuda.is_available():
        build = "a CPU build" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
        raise CourseError(
            f"Profile {name!r} wants a GPU and torch sees none (torch {torch.__version__}, {build}, Python "
            f"{sys.version_info.major}.{sys.version_info.minor}): use --profile cpu, or install a CUDA build of torch."
        )
