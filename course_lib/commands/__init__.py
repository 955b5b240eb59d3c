"""The verbs of `course`, one file each: arguments and printing, nothing that a notebook would want to call.

`course_lib.cli` finds every module of this folder that defines ``add_parser(subparsers)``: a new verb is a new file.
"""

import argparse
from pathlib import Path
from typing import TypeAlias

from course_lib.errors import CourseError
from course_lib.models.folder import is_adapter, refuse_verifier
from course_lib.suggestions import similar_paths

# What `add_subparsers` returns and every `add_parser` receives; argparse has no public name for it.
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def require_adapter(path: Path) -> None:
    """Raise CourseError where an adapter does not exist, and name those that do, or where a folder holds a verifier.

    torch is not imported for it.
    """
    if path.exists():
        refuse_verifier(path)
        return
    hint = similar_paths(path)
    if not hint:
        configs = [each for depth in ("*", "*/*") for each in Path().glob(f"{depth}/adapter_config.json")]
        found = sorted(str(each.parent) for each in configs)
        hint = f" Adapters below this folder: {', '.join(found[:3])}." if found else ""
    raise CourseError(f"There is no adapter {path}.{hint}")


def require_model(name: str | None) -> None:
    """Raise CourseError where there is no model of that name; None passes. torch is not imported for it.

    Args:
        name: a model's name or folder. What only the hub has is fetched.
    """
    if name is not None:
        from course_lib.models.pretrained import resolve

        resolve(name)


def require_base(name: str | None) -> None:
    """`require_model` for commands that also take an adapter's folder as the model: it stands for its base.

    Args:
        name: a model's name or folder, or an adapter's folder; None passes.
    """
    if name is not None and not is_adapter(Path(name)):
        require_model(name)


def require_text(text: str, where: str) -> None:
    """Refuse a text with bytes that are not UTF-8, which Python hands on as halves of characters.

    Args:
        text: what was typed.
        where: the option that it was typed for.

    Raises:
        CourseError: the text has such bytes.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CourseError(
            f"{where} holds bytes that are not UTF-8, at character {error.start}. Type it anew."
        ) from error


def printable(text: str) -> str:
    """Control characters made visible: a model's output must not steer the terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() else repr(c)[1:-1] for c in text)
