"""Writing files: whole at every moment, and never over a user's own."""

import json
import os
from pathlib import Path

from course_lib.errors import CourseError


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write `content` (text as UTF-8) to another name and rename it: a reader, or a run that is killed, finds the old
    file or the new one and never a part. Folders above it are made. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)
    return path


def write_json(path: Path, value: dict | list) -> Path:
    """`write_whole` for a JSON value."""
    return write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def refuse_filled(folder: Path) -> None:
    """CourseError unless `folder` is absent or empty: nothing of a user's is written over."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CourseError(f"{folder} exists and is not empty: choose another folder.")
