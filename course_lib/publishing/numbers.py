"""The promise that a number in the book was measured: numbers in sentences are held against what the run recorded.

A Markdown cell's metadata say where each of its decimal numbers comes from:

    "course": {"numbers": {"4.4": {"recorded": "rates.10", "band": [4.0, 4.8]}, "0.02": "GPT-2's own choice"}}

A measured number has the name of what the chapter recorded and a band. The build fails when the run's value is outside
of it. Any other number says in words where it comes from. Numbers in code, formulas, tables, exercises and solutions
are not looked at.
"""

import re
from typing import Any

from course_lib.errors import CourseError
from course_lib.execution.notebooks.expected import flattened

SKIPPED = re.compile(r"```.*?```|`+[^`]*`+|\$\$.*?\$\$|\$[^$\n]*\$|\]\([^)]*\)|^#[^\n]*$|^\|[^\n]*$", re.S | re.M)
DECIMAL = re.compile(r"(?<![\w.,])\d+\.\d+(?![\w.,]*\d)")
EXERCISES = ("about-exercises", "about-expected", "exercise-")


def unexplained_numbers(notebook: dict) -> list[str]:
    """The decimal numbers in sentences that say nothing about where they come from, and the entries without a number.

    Args:
        notebook: a chapter, executed or not.

    Returns:
        One line for each, with the cell's id.
    """
    found = []
    for cell in _prose(notebook):
        text = SKIPPED.sub(" ", "".join(cell["source"]))
        known = _numbers(cell)
        found += [f"{cell['id']}: {number}" for number in DECIMAL.findall(text) if number not in known]
        found += [f"{cell['id']}: {number} is not in the text" for number in known if number not in text]
    return found


def check_numbers(notebook: dict, measured: dict, chapter: str) -> None:
    """Hold the measured numbers of a chapter's sentences against its run. They are those of the profile cpu.

    Args:
        notebook: the chapter.
        measured: its metrics.json.
        chapter: its name, for messages.

    Raises:
        CourseError: a value is outside its band, or the chapter did not record it.
    """
    if measured["profile"] != "cpu":
        return
    recorded = flattened(measured["recorded"])
    for cell in _prose(notebook):
        for number, origin in _numbers(cell).items():
            if isinstance(origin, dict):
                _check(number, origin, recorded, f"{chapter}, cell {cell['id']}")


def _check(number: str, origin: dict[str, Any], recorded: dict[str, Any], where: str) -> None:
    name, (low, high) = origin["recorded"], origin["band"]
    if name not in recorded:
        raise CourseError(
            f"{where}: {number} is said to be the recorded {name!r}, and the run recorded no such number."
        )
    if not low <= recorded[name] <= high:
        raise CourseError(
            f"{where}: the text says {number}, and the run measured {name} = {recorded[name]:.4g}, outside "
            f"{low:g} to {high:g}. Correct the sentence, or find out what has changed."
        )


def _prose(notebook: dict) -> list[dict]:
    return [
        cell
        for cell in notebook["cells"]
        if cell["cell_type"] == "markdown" and not cell.get("id", "").startswith(EXERCISES)
    ]


def _numbers(cell: dict) -> dict[str, Any]:
    return cell["metadata"].get("course", {}).get("numbers", {})
