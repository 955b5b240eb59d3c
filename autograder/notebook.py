"""A notebook file, and the parts of an assignment in it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from course_lib import schema_formats  # noqa: F401  # before nbformat
from course_lib.errors import CourseError
from course_lib.files import write_whole

# nbformat's NotebookNode, a dictionary whose keys are read as attributes too; nbformat is imported late.
Notebook: TypeAlias = Any
Cell: TypeAlias = Any
Output: TypeAlias = Any

IMPORTS = re.compile(r"^(?:import|from) ", re.M)
NOT_REACHED = "NotReached"  # the name of the error in the output of a cell that was not run
ENDED = "KernelEnded"  # and of the one that ended the run
TOO_LONG = "CellTimeoutError"  # nbgrader's own name for it
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # what a terminal takes for a colour, in a traceback


@dataclass(frozen=True)
class Part:
    """A graded part: the id of its test cell, or of an answer a person grades; the heading above it; its points."""

    id: str
    title: str
    points: float
    manual: bool = False


def read(path: Path) -> Notebook:
    """The notebook at `path`.

    Raises:
        CourseError: The file is absent, is not a notebook, or holds text that could not be written again.
    """
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
        "".join(cell.source for cell in notebook.cells).encode()  # half an emoji could not be written again
        return notebook
    except FileNotFoundError as error:
        raise CourseError(f"There is no notebook {path}.") from error
    except nbformat.reader.NotJSONError as error:
        found = "is damaged: it is not JSON" if Path(path).stat().st_size else "is empty"
        raise CourseError(f"The notebook {path} {found}.") from error
    except Exception as error:  # not a notebook, of an unknown version
        raise CourseError(f"{path} is not a notebook that can be read ({type(error).__name__}).") from error


def write(notebook: Notebook, path: Path) -> None:
    """Write a notebook, whole or not at all.

    Args:
        notebook: The notebook, which is not changed.
        path: The file, which is replaced where it exists.
    """
    import nbformat

    write_whole(path, nbformat.writes(notebook) + "\n")


def add_error(cell: Cell, ename: str, evalue: str) -> None:
    """Add an error to a cell's outputs, which to nbgrader is a failed test.

    Args:
        cell: The cell.
        ename: The name of the error.
        evalue: What it says.
    """
    import nbformat

    traceback = [f"\x1b[0;31m{ename}\x1b[0m: {evalue}"]
    cell.outputs.append(nbformat.v4.new_output("error", ename=ename, evalue=evalue, traceback=traceback))


def said_beside_score(cell: Cell) -> str:
    """What is said beside a partial score, which is the result of its test cell; "" where there is none.

    Args:
        cell: The executed test cell.
    """
    outputs = cell.get("outputs", [])
    if not any(output.output_type == "execute_result" for output in outputs):
        return ""
    said = "".join(str(output.text) for output in outputs if output.output_type == "stream")
    return COLOUR.sub("", said).strip()


def grade_id(cell: Cell) -> str | None:
    """The name by which nbgrader knows a cell; None for a cell that the student added."""
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def is_test(cell: Cell) -> bool:
    """Whether the cell is a graded test."""
    return bool(cell.metadata.get("nbgrader", {}).get("grade")) and not is_solution(cell)


def is_solution(cell: Cell) -> bool:
    """Whether the cell is the student's to fill in."""
    return bool(cell.metadata.get("nbgrader", {}).get("solution"))


def is_task(cell: Cell) -> bool:
    """Whether the cell sets a task, which the student answers in cells of their own below it, and a person grades."""
    return bool(cell.metadata.get("nbgrader", {}).get("task"))


def is_manual(cell: Cell) -> bool:
    """Whether the cell is an answer in words, which a person reads and grades."""
    return is_solution(cell) and bool(cell.metadata.nbgrader.get("grade"))


def parts(notebook: Notebook) -> list[Part]:
    """The graded parts in order; each is titled by the last heading above it."""
    found, title = [], ""
    for cell in notebook.cells:
        text = cell.source.lstrip("- \n")  # headings may stand below a line
        if cell.cell_type == "markdown" and not is_manual(cell) and text.startswith("#"):
            title = text.splitlines()[0].lstrip("# ").split(" (")[0]
        if is_test(cell) or is_manual(cell) or is_task(cell):
            graded = cell.metadata.nbgrader
            found.append(Part(graded.grade_id, title, graded.points, not is_test(cell)))
    return found
