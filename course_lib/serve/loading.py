"""A base and several adapters for it, from the names and paths that a user gives."""

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from course_lib.adapters.trained_on import in_words
from course_lib.errors import CourseError
from course_lib.finetuning.export import as_adapter, common_base, named_base, other_bases, quantization_of_adapter
from course_lib.finetuning.model import load_qlora_base
from course_lib.models.folder import is_adapter
from course_lib.models.pretrained import DEFAULT, load


@dataclass(frozen=True)
class Loaded:
    """A base in evaluation mode without adapters, its tokenizer, and what goes on it.

    Args:
        model: the base.
        tokenizer: the base's.
        name: the base's name or folder.
        adapters: folders in PEFT's layout, by name. They exist as long as the stack that `load_base` was given.
    """

    model: Any
    tokenizer: Any
    name: str
    adapters: dict[str, Path]


def find_base(model: str | None, adapters: Mapping[str, Path], stack: ExitStack) -> tuple[str, dict[str, Path]]:
    """What the names mean, before anything is loaded.

    Args:
        model: a name or folder; an adapter's folder stands for the base that it was trained on, with that adapter; None
            stands for the adapters' base, or the packaged SmolLM2.
        adapters: adapters' folders, checkpoints or .pt files, by name.
        stack: it keeps the folders that are made for checkpoints and .pt files.

    Returns:
        The base's name or folder, and the adapters' folders by name.

    Raises:
        CourseError: the adapters belong to different bases, and `model` does not say which is meant.
    """
    given = dict(adapters)
    if model is not None and is_adapter(Path(model)):
        folder = Path(model)
        if folder.resolve() not in [path.resolve() for path in given.values()]:
            given = {folder.resolve().name: folder} | given
        model = named_base(folder)
    scratch = Path(stack.enter_context(TemporaryDirectory()))
    folders = {}
    for number, (name, path) in enumerate(given.items()):
        (scratch / str(number)).mkdir()  # two checkpoints may have the same last name
        folders[name] = as_adapter(path, scratch / str(number))
    if model is None:
        return (common_base(folders) if folders else DEFAULT), folders
    for name, other in other_bases(model, folders).items():
        print(f"note: {name} was trained on {other}, and is put on {model} here", file=sys.stderr, flush=True)
    return model, folders


def load_base(model: str | None, adapters: Mapping[str, Path], stack: ExitStack, device: str = "cpu") -> Loaded:
    """Load the base that `find_base` finds. Adapters of mode qlora get what their base's 4 bits stand for.

    Args:
        model: as for `find_base`, like the next two.
        adapters: see there.
        stack: see there.
        device: where the model goes.

    Returns:
        The base and the adapters' folders.

    Raises:
        CourseError: as for `find_base`; or the adapters were trained on bases in different 4 bits.
    """
    base, folders = find_base(model, adapters, stack)
    hows = quantizations(adapters, folders)
    kinds = {repr(how) for how in hows.values()}
    if len(kinds) > 1:
        plain = ", ".join(f"{name}: {'none' if how is None else in_words(how)}" for name, how in hows.items())
        raise CourseError(
            f"These adapters were trained on differently quantised bases ({plain}), and one server has one base. "
            "Start a server for each kind."
        )
    how = next(iter(hows.values()), None)
    loaded, tokenizer = load(base, device=device) if how is None else load_qlora_base(base, how, "float32", device)
    return Loaded(loaded.eval(), tokenizer, base, folders)


def quantizations(adapters: Mapping[str, Path], folders: Mapping[str, Path]) -> dict[str, dict[str, Any] | None]:
    """How the base of each adapter was quantised when it was trained.

    Args:
        adapters: what the user named, as for `find_base`.
        folders: the adapters' folders that `find_base` gave.

    Returns:
        As `quantization_of_adapter`, by the adapter's name.
    """
    return {name: quantization_of_adapter(adapters.get(name, folder), folder) for name, folder in folders.items()}


def short_name(base: str) -> str:
    """The name by which calls mean a base: of a folder its last part, for its path is nobody's business."""
    return Path(base).resolve().name if Path(base).is_dir() else base
