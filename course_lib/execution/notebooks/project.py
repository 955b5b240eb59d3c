"""Where things are: the project's root and its chapters."""

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError


def find_root(start: Path | str = ".") -> Path:
    """The nearest folder at or above `start` that holds notebooks/ and pyproject.toml: a clone of the project."""
    here = Path(start).resolve()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    raise CourseError(f"{here} is not inside a clone of the course (no notebooks/ beside a pyproject.toml above it).")


@dataclass(frozen=True)
class Chapter:
    """A lecture notebook; its id is the file's stem, `03_lora`."""

    path: Path

    @property
    def id(self) -> str:
        """The file's stem, `03_lora`."""
        return self.path.stem

    def read(self) -> dict:
        """The notebook as JSON."""
        try:
            notebook = json.loads(self.path.read_text(encoding="utf-8"))
            if notebook.get("nbformat") != 4:
                raise ValueError("it is not JSON of nbformat 4")
            return notebook
        except (ValueError, AttributeError) as error:
            raise CourseError(f"{self.path} is not a notebook: {error}.") from error

    def title(self) -> str:
        """The first heading."""
        for cell in self.read()["cells"]:
            if cell["cell_type"] == "markdown" and (found := re.search(r"^# (.+)$", "".join(cell["source"]), re.M)):
                return found[1]
        return self.id

    def parameters(self) -> set[str]:
        """The names that the cell tagged `parameters` sets. Papermill would only warn of one that is not there."""
        return set(self._assignments())

    def defaults(self) -> dict[str, Any]:
        """Those values of the `parameters` cell that are literals, by name."""
        found = {}
        for name, value in self._assignments().items():
            try:
                found[name] = ast.literal_eval(value) if value else None
            except ValueError:  # an expression
                continue
        return found

    def needs(self) -> tuple[str, ...]:
        """The ids of the chapters whose results this one reads: ``"course": {"needs": [...]}`` in its metadata."""
        needed = self.read()["metadata"].get("course", {}).get("needs", [])
        if not isinstance(needed, list) or not all(isinstance(name, str) for name in needed):
            raise CourseError(f'{self.path.name}: `needs` is {needed!r} and has to be a list such as ["03_lora"].')
        for name in needed:
            if not self.path.with_name(f"{name}.ipynb").is_file():
                raise CourseError(f"{self.path.name} needs {name!r}, and there is no {name}.ipynb beside it.")
        return tuple(needed)

    def _assignments(self) -> dict[str, ast.expr | None]:
        cells = [cell for cell in self.read()["cells"] if "parameters" in cell["metadata"].get("tags", [])]
        if len(cells) != 1:
            raise CourseError(f"{self.path.name} has {len(cells)} cells tagged `parameters`; a chapter has one.")
        try:
            statements = ast.parse("".join(cells[0]["source"])).body
        except SyntaxError as error:
            raise CourseError(f"The `parameters` cell of {self.path.name} is not Python: {error}.") from error
        assigned: dict[str, ast.expr | None] = {}
        for statement in statements:
            if isinstance(statement, ast.Assign):
                assigned |= {target.id: statement.value for target in statement.targets if isinstance(target, ast.Name)}
            elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                assigned[statement.target.id] = statement.value
        return assigned


def find_chapters(names: list[str], root: Path | None = None) -> list[Chapter]:
    """The chapters that are asked for.

    Args:
        names: each is a number (03), an id (03_lora) or a path. An empty list means all chapters.
        root: the clone that holds them. None: the one around the working folder.

    Returns:
        The chapters in the order of the names.

    Raises:
        CourseError: a name fits none or several chapters, or there is no clone around the working folder.
    """
    if names and all(_is_file(name) for name in names):  # paths need no clone around them
        return [Chapter(Path(name).resolve()) for name in names]
    known = [Chapter(path) for path in sorted(((root or find_root()) / "notebooks").glob("*.ipynb"))]
    return known if not names else [_find(name, known) for name in names]


def _is_file(name: str) -> bool:
    return name.endswith(".ipynb") and Path(name).is_file()


def _find(name: str, known: list[Chapter]) -> Chapter:
    if _is_file(name):
        return Chapter(Path(name).resolve())
    found = [chapter for chapter in known if name in (chapter.id, chapter.id.split("_")[0])]
    if len(found) != 1:
        problem = "is not a chapter" if not found else f"means several ({', '.join(c.id for c in found)})"
        raise CourseError(f"{name!r} {problem}; the chapters are: {', '.join(c.id for c in known) or 'none yet'}.")
    return found[0]
