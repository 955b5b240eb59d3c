"""Which assignment a notebook is, and which of its cells is which where an editor has dropped their metadata."""

import ast
import copy
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from autograder import notebook
from autograder.course import Assignment
from autograder.notebook import Cell, Notebook

HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS\n.*?### END HIDDEN TESTS\n?", re.S)
DEFINED = re.compile(r"^(?:async\s+def|def|class)\s+(\w+)", re.M)


def assignment_of(submission: Notebook, known: Iterable[Assignment]) -> Assignment | None:
    """The assignment of which the notebook has most cells, whatever its file is called.

    Cells are known by their grade ids. A notebook without these is known by its text: at least half of the cells that
    are asked for, tests and answers, must be there, as they are in an unanswered one.

    Args:
        submission: The notebook.
        known: The assignments that it may be, the likeliest first: the others are then not read.

    Returns:
        The assignment; None where it is none of them.
    """
    asked, shares = dict[Assignment, list[Cell]](), dict[Assignment, float]()
    for each in known:
        asked[each] = _asked(each.path, each.path.stat().st_mtime_ns)
        shares[each] = _share_by_id(submission, asked[each])
        if shares[each] == 1:  # no other can have more
            return each
    if max(shares.values(), default=0) < 0.5:  # only then by text, which takes a second for all of them
        for each, cells in asked.items():
            shares[each] = shares[each] or _share_by_text(submission, cells)
    best = max(shares, key=lambda each: shares[each], default=None)
    return best if best is not None and shares[best] > 0 else None


@lru_cache
def _asked(path: Path, _changed: int) -> list[Cell]:
    """The solution and test cells of a source, or where it has none in code, its answers in words and its tasks; a
    class of two hundred does not read it two hundred times."""
    cells = notebook.read(path).cells
    kinds = notebook.is_solution, notebook.is_test, notebook.is_task
    asked = [cell for cell in cells if any(is_one(cell) for is_one in kinds)]
    return [cell for cell in asked if cell.cell_type == "code"] or asked


def _share_by_id(submission: Notebook, asked: list[Cell]) -> float:
    """The share of the cells that are asked for whose grade ids the submission has."""
    there = {notebook.grade_id(cell) for cell in submission.cells} - {None}
    return sum(notebook.grade_id(cell) in there for cell in asked) / max(1, len(asked))


def _share_by_text(submission: Notebook, asked: list[Cell]) -> float:
    """The share of them that the submission has by text; 0 where it is less than half, and may be a coincidence.

    An answer whose unwritten form defines nothing cannot be known so, and does not count.
    """
    code = [cell.source for cell in submission.cells if cell.cell_type == "code"]
    names = {name for source in code for name in DEFINED.findall(source)}
    texts = {normal(source) for source in code}
    there = []
    for cell in asked:
        if not notebook.is_solution(cell):
            there.append(normal(HIDDEN.sub("", cell.source)) in texts)
        elif defines := defined_in(cell.source.split("### BEGIN SOLUTION")[0]):
            there.append(defines <= names)
    return sum(there) / len(there) if there and 2 * sum(there) >= len(there) else 0.0


def restored(template: Notebook, submission: Notebook) -> Notebook:
    """The submission with the metadata that its cells have lost, where their text allows.

    A test or a given cell is known by its code, comments and layout aside; an answer by the functions and classes that
    its unwritten form in the template defines; an answer in words by its place behind its question. Cells whose grade
    id is still there stay as they are.

    Args:
        template: The released notebook.
        submission: The student's notebook, which is not changed.

    Returns:
        A copy of the submission.
    """
    submission = copy.deepcopy(submission)
    there = {notebook.grade_id(cell) for cell in submission.cells}
    _find_written(template, submission, there)
    lost = [cell for cell in submission.cells if notebook.grade_id(cell) is None and cell.cell_type == "code"]
    if not lost:
        return submission
    missing = [cell for cell in template.cells if notebook.grade_id(cell) not in there]
    texts = {normal(cell.source): cell for cell in missing if not notebook.is_solution(cell)}
    for cell in lost:
        original = texts.get(normal(cell.source)) or _answered(cell, missing)
        if original is not None:
            cell.metadata = copy.deepcopy(original.metadata)
    return submission


def _find_written(template: Notebook, submission: Notebook, there: set[str | None]) -> None:
    """Give the answers in words whose grade ids are not `there` their metadata back: the text that follows a question.

    Args:
        template: The released notebook.
        submission: The student's notebook, which is changed.
        there: The grade ids that it has.
    """
    given = {cell.source.strip() for cell in template.cells if not notebook.is_manual(cell)}
    for question, answer in zip(template.cells, template.cells[1:], strict=False):
        if not notebook.is_manual(answer) or notebook.grade_id(answer) in there:
            continue
        for before, cell in zip(submission.cells, submission.cells[1:], strict=False):
            text = cell.cell_type == "markdown" and cell.source.strip() not in given
            if text and before.source.strip() == question.source.strip():
                cell.metadata = copy.deepcopy(answer.metadata)


def _answered(cell: Cell, missing: list[Cell]) -> Cell | None:
    """The first of the missing answers of which the cell defines something."""
    names = defined_in(cell.source)
    return next((other for other in missing if notebook.is_solution(other) and names & defined_in(other.source)), None)


def defined_in(source: str) -> set[str]:
    """The functions and classes that a cell defines at its top level, also one that does not parse."""
    return set(DEFINED.findall(source))


def normal(source: str) -> str:
    """The same text for the same code, however it is laid out and commented."""
    try:
        return ast.dump(ast.parse(source))
    except (SyntaxError, ValueError):
        return source.strip()
