"""When a submission was handed in, in a form that nbgrader and formgrader read."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from course_lib.files import write_whole

NAME = "timestamp.txt"
KEPT = "timestamp-as-received.txt"
FORMAT = "%Y-%m-%d %H:%M:%S.%f %Z"
OURS = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d) ([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{6} UTC")


@dataclass(frozen=True)
class Time:
    """When a submission was handed in. guessed: no file says so, and it is the time when the notebook was changed.
    note: what the instructor should know of it."""

    text: str
    guessed: bool = False
    note: str = ""


def handed_in(notebook: Path, student_folder: Path | None, ours: str | None = None) -> Time:
    """The time in the `timestamp.txt` beside the notebook or in the student's folder, else when the file was changed.

    Args:
        notebook: The submission.
        student_folder: The student's folder, where the notebook may be in a folder of its own; None where it has none.
        ours: A guess that an earlier run wrote down; it says nothing of this notebook.

    Returns:
        The time, whether it is a guess, and a note for the instructor.
    """
    note = ""
    folders = [] if student_folder is None else [notebook.parent, student_folder]
    for file in [folder / name for folder in folders for name in (NAME, KEPT)]:
        said = _text(file)
        if said is None or said == ours:
            continue
        time = parsed(said)
        if time is not None:
            return Time(time.strftime(FORMAT))
        note = note or f"{NAME} says {said[:40]!r}, which is not a time: when the notebook was changed counts"
    changed = datetime.fromtimestamp(notebook.stat().st_mtime, UTC)
    return Time(changed.strftime(FORMAT), guessed=True, note=note)


def publish(time: Time, folder: Path, ours: str | None = None) -> None:
    """Have formgrader read the same time as the gradebook holds, for else it takes the submission for a new one.

    A `timestamp.txt` that formgrader would read otherwise, or not at all (its pages then fail), is kept under another
    name.

    Args:
        time: What `handed_in` returned.
        folder: The course's submitted/STUDENT/NAME, made if it is absent.
        ours: A guess that an earlier run wrote down.
    """
    file = folder / NAME
    said = _text(file)
    if said is not None and _as_nbgrader_reads(said) == parsed(time.text):
        return
    if said is not None and said != ours:
        file.replace(folder / KEPT)
    write_whole(file, time.text)


def parsed(text: str) -> datetime | None:
    """A time as nbgrader means to read it, in UTC; None where it says none.

    nbgrader 0.9 takes the offset in "2024-01-02 03:04:05 +0200" for 200 seconds, unless it is close to the time.
    """
    return _as_nbgrader_reads(re.sub(r"\s+([+-]\d{2}:?\d{2})$", r"\1", text))


def _as_nbgrader_reads(text: str) -> datetime | None:
    if OURS.fullmatch(text):  # as `handed_in` and nbgrader in UTC write it: nbgrader takes seconds to import
        return datetime.strptime(text, FORMAT).replace(tzinfo=UTC)
    from nbgrader.utils import parse_utc

    try:
        return parse_utc(text).replace(tzinfo=UTC)
    except Exception:  # dateutil raises ValueError, OverflowError, TypeError, AttributeError and more
        return None


def _text(file: Path) -> str | None:
    """What the file says, if it is there; what is not UTF-8 in it is replaced."""
    return file.read_bytes().decode("utf-8-sig", errors="replace").strip() if file.is_file() else None
