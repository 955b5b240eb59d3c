"""The folder that a submission's process sees: the worker, the libraries of answers, and what the assignment gives."""

import ast
import importlib.util
import os
import shutil
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
INSIDE = "/judge"  # where the sandbox has the folder
LIBRARIES = ["numpy"]  # what answers may import besides Python's own, where an assignment does not say

OWN = '''"""In the place of the course's own-work check: what an answer may not use is not here."""


def own_work(names):
    return lambda *answers: None
'''

REFUSAL = """

def {name}(*arguments, **named):
    raise AssertionError("your answer hands its work to autograder.given.{name}: write it yourself")
"""


class Stage:
    """What one submission's process may see.

    Attributes:
        folder: Where it lies.
        seen: Files and folders, and where the sandbox has them.
    """

    def __init__(self, folder: Path, forbidden: Iterable[str], libraries: Iterable[str]) -> None:
        """Lay it out.

        Args:
            folder: An empty folder.
            forbidden: Names of `autograder.given` that the answers may not use.
            libraries: Packages that they may import.
        """
        self.folder, self.libraries = folder, list(libraries)
        given = folder / "given" / "autograder"
        (folder / "site").mkdir(parents=True)
        given.mkdir(parents=True)
        for name in ("wire.py", "worker.py"):
            shutil.copy(PACKAGE / "judging" / name, folder)
        shutil.copy(PACKAGE / "checks.py", given)
        (given / "__init__.py").touch()
        (given / "own.py").write_text(OWN)
        (given / "given.py").write_text(without((PACKAGE / "given.py").read_text(), set(forbidden)))
        for name, path in self._packages.items():
            (folder / "site" / name).symlink_to(path)  # for a process without the sandbox

    @cached_property
    def seen(self) -> dict[Path, str]:
        """For `sandbox.process.Sandbox`. The libraries are bound where the folder has its links."""
        plain = [path for path in self.folder.iterdir() if path.name != "site"]
        places = {path: f"{INSIDE}/{path.name}" for path in plain}
        return places | {path: f"{INSIDE}/site/{name}" for name, path in self._packages.items()}

    @cached_property
    def _packages(self) -> dict[str, Path]:
        """The libraries' own folders, and those of the shared objects that their wheels bring along."""
        found = {}
        for library in self.libraries:
            spec = importlib.util.find_spec(library)
            for place in (spec.submodule_search_locations or []) if spec else []:
                for folder in (Path(place), Path(f"{place}.libs")):
                    if folder.is_dir():
                        found[folder.name] = Path(os.path.realpath(folder))
        return found


def without(source: str, forbidden: set[str]) -> str:
    """A module's source in which some functions only refuse to work.

    Args:
        source: The module.
        forbidden: The functions' names.
    """
    tree = ast.parse(source)
    lines = source.splitlines()
    for node in tree.body[::-1]:
        if isinstance(node, ast.FunctionDef) and node.name in forbidden:
            lines[node.lineno - 1 : node.end_lineno] = REFUSAL.format(name=node.name).splitlines()
    return "\n".join(lines) + "\n"
