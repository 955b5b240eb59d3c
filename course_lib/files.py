"""Writing files: whole at every moment, and never over a user's own."""

import json
import os
from pathlib import Path

from course_lib.errors import CourseError
from course_lib.suggestions import similar_paths


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file under another name and rename it: a reader, or a run that is killed, never finds half a file.

    Args:
        path: the file, which is replaced where it exists. Folders above it are made.
        content: bytes, or text, which is written as UTF-8.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)
    return path


def write_json(path: Path, value: dict | list) -> Path:
    """`write_whole` for a JSON value.

    Args:
        path: the file.
        value: what it is to say. Letters outside ASCII are written as they are.

    Returns:
        The path.
    """
    return write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def apply_umask(path: Path) -> Path:
    """Give a file, or a folder with all that is in it, the permissions that the umask allows. Returns the path.

    safetensors makes its files readable for their owner alone, and so does tempfile its folders; what is meant for
    others has to be opened to them.
    """
    mask = os.umask(0o022)
    os.umask(mask)  # the only way to read it is to set it
    for each in (path, *path.rglob("*")) if path.is_dir() else (path,):
        each.chmod((0o777 if each.is_dir() else 0o666) & ~mask)
    return path


def refuse_filled(folder: Path) -> None:
    """CourseError unless `folder` is absent or empty: nothing of a user's is written over."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CourseError(f"{folder} exists and is not empty: choose another folder.")


def refuse_missing_path(option: str, value: str, endings: tuple[str, ...] = ()) -> None:
    """Refuse a value that is written like a path where nothing is there; a name passes, since others look it up.

    Args:
        option: that was given, for the message.
        value: a path, or the name of a model or a data set.
        endings: of names that can only be files.

    Raises:
        CourseError: there is no such file or folder. The error names similar ones.
    """
    like_a_path = value.startswith((".", "/", "~")) or value.endswith(endings)
    path = Path(value).expanduser()
    if like_a_path and not path.exists():
        raise CourseError(f"{option} {value}: there is no such file or folder.{similar_paths(path)}")
