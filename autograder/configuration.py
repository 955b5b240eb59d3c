"""nbgrader's configuration in a course's folder: a copy of ours, which an instructor may edit, and updates leave alone.

So a copy can be older than the course. `course grade` then says what it lacks; nothing replaces it by itself.
"""

import shutil
from pathlib import Path
from typing import Any

from autograder.course import CONFIG

PERSONAL = {
    "CourseDirectory",
    "ExecutePreprocessor",
}  # the course's name and folder, and a time limit: the instructor's


def place(folder: Path) -> None:
    """Put our configuration into a course's folder, where nbgrader looks for it, unless one is there already."""
    if not (folder / CONFIG.name).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(CONFIG, folder)


def outdated(folder: Path) -> str:
    """What a course's configuration lacks or sets otherwise than ours, and how to renew it, in a sentence or two.

    The instructor's own settings are not looked at, and lists may be longer than ours.

    Args:
        folder: The course's folder, with an `nbgrader_config.py`, which is executed as nbgrader executes it.

    Returns:
        What to tell the instructor; "" where the copy does all that ours does.
    """
    file = folder / CONFIG.name
    try:
        copy = _settings(file)
    except Exception as error:  # whatever an edited file of Python raises
        return f"{file} cannot be read ({type(error).__name__}: {error}). {_renewal(file)}"
    ours = _settings(CONFIG)
    lacking = [name for name in ours if name not in copy]
    other = [name for name in ours if name in copy and not _agrees(copy[name], ours[name])]
    said = [f"does not set {', '.join(lacking)}"] if lacking else []
    said += [f"sets {', '.join(other)} otherwise"] if other else []
    if not said:
        return ""
    return (
        f"{file} is older than this version of the course, or was edited: it {' and '.join(said)}, so that nbgrader's"
        f" own commands and formgrader may grade otherwise than `course grade`. {_renewal(file)}"
    )


def _renewal(file: Path) -> str:
    return f"To renew it, rename it, run `course grade` again, and copy your own settings into the new {file.name}."


def _settings(file: Path) -> dict[str, Any]:
    """What a configuration sets, by names such as IgnorePattern.pattern, without the personal ones."""
    from traitlets.config.loader import PyFileConfigLoader

    config = PyFileConfigLoader(file.name, path=str(file.parent)).load_config()
    return {
        f"{kind}.{name}": value
        for kind, values in config.items()
        if kind not in PERSONAL
        for name, value in values.items()
    }


def _agrees(value: Any, ours: Any) -> bool:
    """Whether a setting does at least what ours does."""
    if isinstance(value, list) and isinstance(ours, list):
        return [each for each in value if each in ours] == ours  # in our order, with others between
    return value == ours
