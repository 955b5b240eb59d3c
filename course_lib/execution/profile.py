"""Profiles: the sizes of a run. The notebook's text is the same on a laptop and on a cluster; only the profile changes.

A profile is a TOML file. Its top level holds what all chapters share, and each chapter has a table of its own. Inside
it, the table `cost` says what the chapter takes: `course run` plans with it (see `notebooks.side_by_side`), and the
notebook does not see it.
"""

import sys
import tomllib
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError
from course_lib.execution.environment import usable_threads
from course_lib.seeding import seed_everything


class MissingSetting(CourseError, AttributeError):
    """The profile lacks a setting. It is an AttributeError too, so that hasattr and getattr work."""


@dataclass(frozen=True)
class Profile:
    """The settings of one chapter, read as attributes: `settings.steps`.

    Attributes:
        name: the profile's name.
        values: the settings by name.
    """

    name: str
    values: dict = field(default_factory=dict)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):  # pickle, copy and IPython look for such names
            raise AttributeError(key)
        try:
            return self.values[key]
        except KeyError:
            raise MissingSetting(
                f"Profile {self.name!r} has no setting {key!r}; it has: {', '.join(self.values)}."
            ) from None

    def __repr__(self) -> str:
        shown = {key: value for key, value in self.values.items() if key != "cost"}  # `cost` is for the runner
        return "\n".join([f"profile {self.name}", *(f"  {key:15} {value}" for key, value in shown.items())])

    def seed_everything(self, seed: int) -> None:
        """Seed Python, NumPy and torch, and limit torch to this profile's threads.

        torch gets fewer where the machine has fewer cores, or where `course run` has shared them out.
        """
        import torch

        seed_everything(seed)
        torch.set_num_threads(min(self.threads, usable_threads()))


def available_profiles() -> dict[str, str]:
    """The description of each profile that the package carries, by its name."""
    folder = files("course_lib.execution") / "profiles"
    found = (path for path in folder.iterdir() if path.name.endswith(".toml"))
    return {path.name.removesuffix(".toml"): tomllib.loads(path.read_text())["description"] for path in found}


def profile_path(name: str) -> Path:
    """The TOML file of a profile: one of ours by its name, or a user's own by its path."""
    if name.endswith(".toml"):
        path = Path(name)
    else:
        path = Path(str(files("course_lib.execution") / "profiles" / f"{name}.toml"))
    if not path.is_file():
        known = ", ".join(sorted(available_profiles()))
        raise CourseError(f"There is no profile {name!r}. Choose one of {known}, or give the path of a TOML file.")
    return path


def read_profile(path: Path) -> dict:
    """The content of a profile's file. Raises CourseError if it is not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise CourseError(f"Profile {path} is not valid TOML: {error}. Compare it with one of ours.") from error


def load_profile(name: str, chapter: str | None = None) -> Profile:
    """The settings of a chapter: the profile's top level, overlaid by the chapter's own table.

    Args:
        name: the name of one of our profiles, or the path of a TOML file.
        chapter: the chapter's id, `03_lora`; None: only what all chapters share.

    Returns:
        The settings, to be read as attributes.

    Raises:
        CourseError: there is no such profile, it has no table for the chapter, or its device is "cuda" and torch sees
            no GPU on this machine.
    """
    path = profile_path(name)
    table = read_profile(path)
    if chapter is not None and chapter not in table:
        raise CourseError(
            f'Profile {name!r} has no table ["{chapter}"], so it does not say how large this chapter is to be. '
            "Copy the table from one of our profiles."
        )
    values = _without_tables(table) | _without_tables(table.get(chapter or "", {}))
    profile = Profile(path.stem, values)
    if profile.device == "cuda":
        _require_cuda(name)
    return profile


def _without_tables(table: dict) -> dict:
    return {key: value for key, value in table.items() if not isinstance(value, dict)}


def _require_cuda(name: str) -> None:
    import torch

    if not torch.cuda.is_available():
        build = "a CPU build" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
        raise CourseError(
            f"Profile {name!r} wants a GPU and torch sees none (torch {torch.__version__}, {build}, Python "
            f"{sys.version_info.major}.{sys.version_info.minor}). Use --profile cpu, or install a CUDA build of torch."
        )
