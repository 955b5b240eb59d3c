"""The numbers that a chapter is expected to record, and how far a run may be from them.

They lie beside the notebook, in `expected/PROFILE/CHAPTER.json`::

    {"chapter": "03_lora", "profile": "smoke", "seed": 0, "relative": 0.001, "absolute": 1e-06,
     "values": {"loss_last": 3.93, "gpt2_trained.8": 294912},
     "tolerances": {"loss_*": {"relative": 0.05}, "switch_ms": null}}

A number with a fraction may differ by ``absolute + relative * abs(expected)``. Whole numbers, texts and truth values
must be equal. `tolerances` has patterns of names with a band of their own, for whole numbers too, and null says that a
value is not compared. ``{"at_most": 1e-5}`` is for a difference that should be 0 and is rounding: smaller is as good.
A person edits the bands, and writing new values keeps them.
"""

import math
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from course_lib.execution.notebooks.project import Chapter
from course_lib.execution.notebooks.results import Result, read_json
from course_lib.files import write_json

# A thousandth is far more than another order of float32 sums gives, and less than any change of a method.
RELATIVE = 1e-3
# Differences between two computations of the same thing are rounding: 2e-16 and 7e-16 say the same.
ABSOLUTE = 1e-6
# Values that depend on the machine, by the units and words in their names.
MEASURED = re.compile(
    r"(^|[_. ])(ms|seconds|speed|times?|minutes|per_second|peak_bytes|memory_peak|peak_memory|memory_measured"
    r"|bandwidth|gflop|roofline|served)($|[_. ])"
)
# What compares two computations of the same thing. Where it is this small, it is rounding.
ROUNDING = re.compile(r"(difference|error|gap|excess|apart|orthogonality)")
ROUNDING_BELOW = 1e-4


def expected_file(chapter: Chapter, profile: str) -> Path:
    """Where the expected numbers of a chapter are.

    Args:
        chapter: the chapter.
        profile: the profile's name, without a path.

    Returns:
        The path; the file may not exist.
    """
    return chapter.path.parent / "expected" / profile / f"{chapter.id}.json"


def flattened(values: Any, name: str = "") -> dict[str, Any]:
    """Recorded values without nesting: ``{"a": {"b": [1, 2]}}`` becomes ``{"a.b.0": 1, "a.b.1": 2}``.

    Args:
        values: what the chapter recorded.
        name: in front of all names.

    Returns:
        The values by name.
    """
    if isinstance(values, list):
        values = dict(enumerate(values))
    if not isinstance(values, dict):
        return {name: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flattened(value, f"{name}.{key}" if name else str(key))
    return flat


def write_expected(chapter: Chapter, profile: str, seed: int, recorded: dict) -> Path:
    """Make a run's numbers the expected ones. Bands that are in the file stay as they are.

    Args:
        chapter: the chapter.
        profile: the profile's name.
        seed: of the run.
        recorded: what the chapter recorded.

    Returns:
        The file.
    """
    path = expected_file(chapter, profile)
    before = read_json(path) or {}
    values = flattened(recorded)
    measured = {name: None for name in values if MEASURED.search(name)}
    rounding = {name: {"at_most": _ten_times(each)} for name, each in values.items() if _is_rounding(name, each)}
    content = {
        "chapter": chapter.id,
        "profile": profile,
        "seed": seed,
        "relative": before.get("relative", RELATIVE),
        "absolute": before.get("absolute", ABSOLUTE),
        "values": values,
        "tolerances": rounding | measured | before.get("tolerances", {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)
    return path


def _is_rounding(name: str, value: Any) -> bool:
    return bool(ROUNDING.search(name)) and isinstance(value, float) and 0 <= value < ROUNDING_BELOW


def _ten_times(value: float) -> float:
    """The power of ten that is at least ten times a rounding error, and never below `ABSOLUTE`."""
    return max(ABSOLUTE, float(f"1e{math.ceil(math.log10(10 * value))}")) if value else ABSOLUTE


def drifts(expected: dict, recorded: dict) -> Iterator[str]:
    """How a run differs from what is expected.

    Args:
        expected: the file's content.
        recorded: what the chapter recorded now. Values that the file does not have are not compared.

    Yields:
        One sentence for each value outside its band, with both values.
    """
    found = flattened(recorded)
    for name, wanted in expected["values"].items():
        band, most = band_of(expected, name), limit_of(expected, name)
        if band is None:
            continue
        if name not in found:
            yield f"{name} was not recorded; expected {wanted!r}."
        elif most is not None:
            if not _inside(found[name], 0.0, most):
                yield f"{name} is {_digits(found[name])}, expected {_digits(wanted)} and at most {most:.2g}."
        elif not _inside(found[name], wanted, band):
            width = f" ± {band:.2g}" if band else ""
            yield f"{name} is {_digits(found[name])}, expected {_digits(wanted)}{width}."


def band_of(expected: dict, name: str) -> float | None:
    """How far a value may be from the expected one.

    Args:
        expected: the file's content.
        name: the value's name.

    Returns:
        The half width; 0: it must be equal. None: it is not compared.
    """
    wanted, own = expected["values"][name], _tolerance(expected, name)
    if own is None:
        return None
    if isinstance(wanted, bool) or not isinstance(wanted, int | float) or (isinstance(wanted, int) and not own):
        return 0.0
    relative = own.get("relative", expected.get("relative", RELATIVE))
    return own.get("absolute", expected.get("absolute", ABSOLUTE)) + relative * abs(wanted)


def limit_of(expected: dict, name: str) -> float | None:
    """The largest size that a rounding error may have; None: the value has a band around the expected one.

    Args:
        expected: the file's content.
        name: the value's name.

    Returns:
        The size, or None.
    """
    return (_tolerance(expected, name) or {}).get("at_most")


def band_text(expected: dict, name: str) -> str:
    """The band in the words of the book: "± 0.0025", "equal", "at most 1e-05"; empty where it is not compared.

    Args:
        expected: the file's content.
        name: the value's name.

    Returns:
        The words.
    """
    band = band_of(expected, name) if name in expected["values"] else None
    if band is None:
        return ""
    if (most := limit_of(expected, name)) is not None:
        return f"at most {most:.2g}"
    return f"± {band:.2g}" if band else "equal"


def _tolerance(expected: dict, name: str) -> dict | None:
    """The last entry of `tolerances` that fits a name; empty where none does, None where it says null.

    The last: what a person added stands below what was written by itself.
    """
    own: dict | None = {}
    for pattern, tolerance in expected.get("tolerances", {}).items():
        if name == pattern or fnmatchcase(name, pattern):
            own = tolerance
    return own


def _inside(found: Any, wanted: Any, band: float) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (found, wanted))
    return abs(found - wanted) <= band if numbers else found == wanted


def _digits(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def compare_with_expected(chapters: dict[str, Chapter], results: list[Result], profile: str, seed: int) -> list[str]:
    """Mark each result that is not as expected: its status becomes "drifted", and its message says how.

    Args:
        chapters: by their ids.
        results: of a run; those that failed are left alone.
        profile: the profile's name.
        seed: of the run.

    Returns:
        The ids of chapters that have no expected numbers for this profile and seed.
    """
    unknown = []
    for result in results:
        if result.status == "failed":
            continue
        path = expected_file(chapters[result.chapter], profile)
        expected = read_json(path)
        if expected is None or expected.get("seed", 0) != seed:
            unknown.append(result.chapter)
        elif found := list(drifts(expected, result.recorded)):
            result.status = "drifted"
            result.message = f"{result.chapter} is not as expected ({path.parent.name}/{path.name}):"
            result.message += "".join(f"\n  {line}" for line in found)
    return unknown
