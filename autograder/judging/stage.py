"""The folder that a submission's process sees: the worker, the libraries of answers, and what the assignment gives."""

import ast
import importlib.metadata
import os
import shutil
from collections.abc import Iterable
from functools import cached_property, lru_cache
from pathlib import Path

from autograder.judging import slices

PACKAGE = Path(__file__).resolve().parents[1]
ALONE = [*(f"judging/{name}.py" for name in ("apart", "light", "wire", "worker")), "sandbox/calls.py"]
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

    Args:
        folder: An empty folder.
        forbidden: Names of `autograder.given`, and of the course's library, that the answers may not use.
        libraries: Packages that they may import.
        course: Names of the course's library that they may use, such as "course_lib.scratch.GPT".
    """

    def __init__(
        self, folder: Path, forbidden: Iterable[str], libraries: Iterable[str], course: Iterable[str] = ()
    ) -> None:
        self.folder, self.libraries = folder, list(libraries)
        given = folder / "given" / "autograder"
        given.mkdir(parents=True)
        for name in ALONE:
            shutil.copy(PACKAGE / name, folder)
        shutil.copy(PACKAGE / "checks.py", given)
        (given / "__init__.py").touch()
        (given / "own.py").write_text(OWN)
        (given / "given.py").write_text(without((PACKAGE / "given.py").read_text(), set(forbidden)))
        slices.write(folder / "given", [name for name in course if name.rpartition(".")[2] not in set(forbidden)])
        self._link()

    def _link(self) -> None:
        """Link to the libraries, for a process without the sandbox; stages side by side share the links."""
        links = self.folder.parent / f"site-{'-'.join(self.libraries)}"
        if not links.exists():
            links.mkdir()
            for name, path in self._packages.items():
                (links / name).symlink_to(path)
        (self.folder / "site").symlink_to(links)

    @cached_property
    def seen(self) -> dict[Path, str]:
        """For `sandbox.process.Sandbox`. The libraries are bound where the folder has its links."""
        plain = [path for path in self.folder.iterdir() if path.name != "site"]
        places = {path: f"{INSIDE}/{path.name}" for path in plain}
        return places | {path: f"{INSIDE}/site/{name}" for name, path in self._packages.items()}

    @cached_property
    def _packages(self) -> dict[str, Path]:
        """What lies where packages are installed and belongs to the libraries."""
        return {name: path for library in self.libraries for name, path in _installed(library).items()}


@lru_cache
def _installed(library: str) -> dict[str, Path]:
    """The folders and files of an installed package and of those that it needs, by their names."""
    from packaging.requirements import Requirement

    found: dict[str, Path] = {}
    waiting, seen = [library], set[str]()
    while waiting:
        distribution = importlib.metadata.distribution(waiting.pop())
        about = distribution.metadata  # which is parsed anew each time
        if about["Name"] in seen:
            continue
        seen.add(about["Name"])
        home = Path(str(distribution.locate_file("")))
        for name in {
            line.split("/")[0].split(",")[0] for line in (distribution.read_text("RECORD") or "").splitlines()
        }:
            if name not in ("", "..", "__pycache__") and not name.endswith(".pth") and (home / name).exists():
                found[name] = Path(os.path.realpath(home / name))
        needed = map(Requirement, about.get_all("Requires-Dist") or [])
        waiting += [each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def without(source: str, forbidden: set[str]) -> str:
    """A module's source in which some functions only refuse to work.

    Args:
        source: The module.
        forbidden: The functions' names.

    Returns:
        The new source.
    """
    tree = ast.parse(source)
    lines = source.splitlines()
    for node in tree.body[::-1]:
        if isinstance(node, ast.FunctionDef) and node.name in forbidden:
            lines[node.lineno - 1 : node.end_lineno] = REFUSAL.format(name=node.name).splitlines()
    return "\n".join(lines) + "\n"
