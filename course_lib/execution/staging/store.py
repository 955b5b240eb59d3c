"""The staged folder: what lies in it, with sizes and checksums in `stage.json`, and whether it is still so."""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError
from course_lib.execution.notebooks.results import read_json
from course_lib.files import write_json

MANIFEST = "stage.json"
DAY = 86_400
NAMED_AT_MOST = 5


def stage_folder(given: Path | None) -> Path:
    """Where things are staged: what was given, else $SCRATCH/course, else $WORK/course.

    Raises:
        CourseError: none of the three is there.
    """
    if given is not None:
        return given.resolve()
    for name in ("SCRATCH", "WORK"):
        if base := os.environ.get(name):
            return Path(base, "course")
    raise CourseError("Neither $SCRATCH nor $WORK is set here, so say where to stage: --to DIR.")


def add_copy(folder: Path, source: Path, kind: str) -> Path:
    """Copy a file or a folder of the user's into the staged folder, whole or not at all.

    Args:
        folder: the staged one.
        source: what to copy.
        kind: the folder within it, such as "data".

    Returns:
        Where it is now.

    Raises:
        CourseError: there is no such file.
    """
    if not source.exists():
        raise CourseError(f"There is no {source} to stage.")
    target = folder / kind / source.resolve().name
    if target.exists() and target.samefile(source):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".partial-{os.getpid()}-{target.name}")
    if source.is_dir():
        shutil.copytree(source, partial)
        shutil.rmtree(target, ignore_errors=True)
    else:
        shutil.copyfile(source, partial)
    os.replace(partial, target)
    return target


def write_manifest(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Measure every file in the folder and write `stage.json`.

    Args:
        folder: the staged one.
        about: what else the manifest says, such as the architecture.

    Returns:
        The manifest.
    """
    files = {
        name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in sorted(_files(folder).items())
    }
    manifest = about | {"staged": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "files": files}
    write_json(folder / MANIFEST, manifest)
    return manifest


STAGED = ("wheels", "models", "data", "huggingface", "cache")  # `runs`, which jobs write, are not ours to check


def _files(folder: Path) -> dict[str, Path]:
    found = {}
    for part in STAGED:
        for path in (folder / part).rglob("*"):
            if path.is_file() and not path.name.endswith(".lock"):
                found[str(path.relative_to(folder))] = path
    return found


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits. A check is not a use: the time of the last access stays."""
    with open(path, "rb", opener=_without_access_time) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without_access_time(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | getattr(os, "O_NOATIME", 0))
    except PermissionError:  # Linux allows it to the file's owner
        return os.open(path, flags)


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        files: how many there should be.
        size: their bytes.
        gone: names of files that are not there any more.
        changed: names of files with another size or checksum.
        idle_days: since the file that was left alone for longest was last read.
    """

    files: int
    size: int
    gone: list[str]
    changed: list[str]
    idle_days: float

    def problems(self, purge_days: int) -> Iterator[str]:
        """What is wrong, one sentence each.

        Args:
            purge_days: after how many days without a reader the site removes a file; 0: never.
        """
        if self.gone:
            why = f" The site removes files that nobody read for {purge_days} days." if purge_days else ""
            yield f"{_some(self.gone)} {_be(self.gone)} gone.{why} Run `course stage` again."
        if self.changed:
            yield f"{_some(self.changed)} {_be(self.changed)} not what was staged. Run `course stage` again."

    def warning(self, purge_days: int) -> str:
        """A sentence where files will soon be removed; else empty.

        Args:
            purge_days: as in `problems`.
        """
        left = purge_days - self.idle_days
        if not purge_days or left > purge_days / 2:
            return ""
        return (
            f"some files were last read {self.idle_days:.0f} days ago, and the site removes them after {purge_days}: "
            "use them in a job, or keep a copy in $WORK"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return ", ".join(names[:NAMED_AT_MOST]) + more


def _be(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def check(folder: Path) -> Checked:
    """Compare the folder with its manifest.

    Args:
        folder: the staged one.

    Returns:
        What was found.

    Raises:
        CourseError: there is no manifest, so all of it may be gone.
    """
    manifest = read_json(folder / MANIFEST)
    if manifest is None:
        raise CourseError(
            f"{folder} holds no {MANIFEST}: nothing was staged there, or all of it was removed. Run `course stage`."
        )
    gone, changed, read = [], [], []
    for name, about in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            gone.append(name)
            continue
        status = path.stat()  # before it is read for its checksum
        read.append(max(status.st_atime, status.st_mtime))
        if status.st_size != about["bytes"] or sha256(path) != about["sha256"]:
            changed.append(name)
    idle = (time.time() - min(read)) / DAY if read else 0.0
    size = sum(about["bytes"] for about in manifest["files"].values())
    return Checked(len(manifest["files"]), size, gone, changed, idle)
