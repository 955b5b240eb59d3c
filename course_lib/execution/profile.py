"""Profiles: the sizes of a run. The notebook's text is the same on a laptop and on a cluster; only the profile changes.

A profile is a TOML file (or the same as JSON). Its top level holds what all chapters share, and each chapter has a
table of its own. Inside it, the table `cost` says what the chapter takes: `course run` plans with it (see
`notebooks.side_by_side`), and the notebook does not see it. `extends = "gpu"` takes over whatever the file itself does
not say. The tables `hardware`, `model`, `data_config` and `slurm` are for runs beyond the chapters.

`profile_check` finds what is wrong with a profile before anything runs.
"""

import json
import re
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError
from course_lib.execution.environment import usable_threads
from course_lib.seeding import seed_everything
from course_lib.suggestions import did_you_mean

SUFFIXES = (".toml", ".json")  # of a user's own profile
BARE_NUMBER = re.compile(r"[+-]?(\d+\.|\.\d+)([eE][+-]?\d+)?")  # TOML wants a digit on both sides of the point


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
    """The file of a profile: one of ours by its name, or a user's own by its path."""
    if name.endswith(SUFFIXES):
        path = Path(name)
    else:
        path = Path(str(files("course_lib.execution") / "profiles" / f"{name}.toml"))
    if not path.is_file():
        known = ", ".join(sorted(available_profiles()))
        hint = did_you_mean(name, available_profiles())
        raise CourseError(
            f"There is no profile {name!r}. Choose one of {known}, or give the path of a TOML file.{hint}"
        )
    return path


def read_profile(path: Path, overrides: Sequence[str] = ()) -> dict:
    """The whole content of a profile: what it extends, overlaid by the file itself, overlaid by single settings.

    Args:
        path: its file.
        overrides: settings such as "03_lora.steps=50" (see `override`).

    Returns:
        The tables by name, without `extends`.

    Raises:
        CourseError: a file is not valid, the profiles extend each other in a circle, or a setting cannot be made.
    """
    table = _with_ancestors(path, ())
    for text in overrides:
        override(table, text)
    return table


def _with_ancestors(path: Path, children: tuple[Path, ...]) -> dict:
    own = _parse(path)
    if "extends" not in own:
        return own
    if path in children:
        raise CourseError(f"The profile {path} extends itself, by way of {children[-1].name}.")
    name = str(own.pop("extends"))
    near = path.parent / name
    parent = near if name.endswith(SUFFIXES) and near.is_file() else profile_path(name)
    return overlaid(_with_ancestors(parent, (*children, path)), own)


def overlaid(below: dict, above: dict) -> dict:
    """Lay one table over another; tables inside them are overlaid in turn.

    Args:
        below: the table that gives way.
        above: the table that wins where both have a key.

    Returns:
        Both tables in one, a new one.
    """
    both = below | above
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict) and key != "dataset_mix":
            both[key] = overlaid(below[key], above[key])  # a mix is one thing: its shares belong together
    return both


def _parse(path: Path) -> dict:
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise CourseError(f"Profile {path} is not text in UTF-8. Write it anew in an editor.") from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise CourseError(f"Profile {path} is not valid {kind}: {error}. Compare it with one of ours.") from error
    if not isinstance(table, dict):
        raise CourseError(f"Profile {path} holds no tables. Compare it with one of ours.")
    return table


def override(table: dict, text: str) -> None:
    """Change one setting of a profile, in place.

    Args:
        table: the whole content of a profile.
        text: `TABLE.KEY=VALUE`, or `KEY=VALUE` for the top level. VALUE is written as in TOML; a word without quotes is
            a text.

    Raises:
        CourseError: the text is not of that form.
    """
    name, equals, value = text.partition("=")
    *tables, key = (part.strip() for part in name.split("."))
    if not equals or not key or not all(tables):
        raise CourseError(f"--set {text}: write it as TABLE.KEY=VALUE, such as 03_lora.steps=50.")
    for part in tables:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise CourseError(f"--set {text}: {part} is a setting and holds no others.")
    table[key] = parse_value(value)


def parse_value(text: str) -> Any:
    """A value from the command line, written as in TOML.

    Numbers that TOML does not know, `.5` and `1.`, are numbers all the same: a learning rate must not arrive as a text.
    Whatever else TOML cannot read is a text without quotes.
    """
    text = text.strip()
    if BARE_NUMBER.fullmatch(text):
        return float(text)
    try:
        made = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    # 02:00:00 is a time to TOML, and a text to Slurm and to us
    return made if isinstance(made, bool | int | float | str | list | dict) else text


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

    Example:
        >>> load_profile("smoke", chapter="03_lora").rank
        8
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
