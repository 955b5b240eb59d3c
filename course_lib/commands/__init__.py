"""The verbs of `course`, one file each: arguments and printing, nothing that a notebook would want to call.

`course_lib.cli` finds every module of this folder that defines ``add_parser(subparsers)``: a new verb is a new file.
"""

import argparse
import sys
from pathlib import Path
from typing import TypeAlias

from course_lib.errors import CourseError
from course_lib.finetuning.guide_names import meant_by_guide
from course_lib.models.folder import is_adapter, refuse_verifier
from course_lib.suggestions import similar_paths
from course_lib.vocabulary import DEVICE

# What `add_subparsers` returns and every `add_parser` receives; argparse has no public name for it.
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_device(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Add --device, which is auto for every command.

    Args:
        parser: the command's.
        more: what else the help says about it.
    """
    parser.add_argument("--device", default="auto", metavar="NAME", help=f"{DEVICE}{more} (auto)")


def add_resume(parser: argparse.ArgumentParser, what: str) -> None:
    """Add --resume, and --resume auto, by which a cluster can send one command again and again.

    Args:
        parser: the command's.
        what: what it goes on with.
    """
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        choices=("auto",),
        help=f"go on {what}; auto: or begin, where there is nothing to go on with",
    )


def require_cpu(device: str, option: str) -> None:
    """Refuse a device that is not the CPU, for an option that has no use elsewhere.

    Args:
        device: what --device says.
        option: the one that is for the CPU.

    Raises:
        CourseError: the device is another.
    """
    if device not in ("auto", "cpu"):
        raise CourseError(f"{option} is for --device cpu, and the device is {device}. Leave {option} out.")


def prepared_on(device: str, prepared: object) -> str:
    """The device to compute on. What is prepared for a CPU stays there.

    Args:
        device: what --device says.
        prepared: whether the model is prepared, as for --weights.

    Returns:
        The name of a device that torch has here.

    Raises:
        CourseError: there is no such device, or it is not for what is prepared.
    """
    if prepared:
        require_cpu(device, "--weights")
        return "cpu"
    from course_lib.models.devices import choose_device

    return choose_device(device)


def require_adapter(path: Path) -> Path:
    """Find an adapter, also by the name that a guide gives to its file. torch is not imported for it.

    Args:
        path: an adapter's folder, a checkpoint or a .pt file.

    Returns:
        The path, or what of a run a guide's name means; then a note says so.

    Raises:
        CourseError: there is no such adapter, which names those that there are; or the folder holds a verifier.
    """
    if path.exists():
        refuse_verifier(path)
        return path
    if meant := meant_by_guide(path):
        print(f"note: there is no file {path}: it stands for {meant} here", file=sys.stderr, flush=True)
        return meant
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
