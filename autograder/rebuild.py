"""Puts a student's answers back among the tests they came with: nothing else of a submission counts."""

import ast
import copy

from autograder import notebook
from autograder.notebook import Cell, Notebook
from autograder.recognise import defined_in, restored

INJECTED = "injected-parameters"  # papermill's tag of the cell that it adds


def is_injected(cell: Cell) -> bool:
    """Whether papermill added the cell. It has no grade id, and it would set the assignment's own parameters anew."""
    return INJECTED in cell.metadata.get("tags", [])


def rebuild(template: Notebook, submission: Notebook) -> Notebook:
    """`template` with the student's solution cells and own cells, and nothing else of the submission.

    Order, tests and metadata come from the template, so that a deleted, duplicated or edited test changes nothing. An
    answer whose cell was split is put together again. A cell that the student added stays behind the tracked cell that
    it followed, and behind the template's code there that has no grade id: a student may have edited a copy of that,
    such as a header that asks for a name. Cells that lost their metadata are recognised by their text
    (`recognise.restored`).

    Args:
        template: The released notebook.
        submission: The student's notebook, which is not changed.

    Returns:
        A new notebook with a cell for each cell of the template, and the student's own ones between them.
    """
    submission = restored(template, submission)
    pieces, added = _sorted_out(submission, template)

    whole = copy.deepcopy(template)
    whole.cells = []
    for name, given in _stretches(copy.deepcopy(template.cells)):
        if name is not None and notebook.is_solution(given[0]):
            given[0].source = _answer(given[0], pieces.get(name, []), submission)
        own = added.get(name, [])
        code = [number for number, cell in enumerate(given, start=1) if cell.cell_type == "code"]
        behind = max([int(name is not None), *code])
        above = [cell for cell in given[:behind] if not _is_kept(cell, own)]
        whole.cells += [*above, *own, *given[behind:]]
    return whole


def _stretches(cells: list[Cell]) -> list[tuple[str | None, list[Cell]]]:
    """The cells in stretches: each tracked cell with the untracked ones behind it, by its grade id. The first stretch
    has no tracked cell, and may be empty."""
    found: list[tuple[str | None, list[Cell]]] = [(None, [])]
    for cell in cells:
        if notebook.grade_id(cell) is not None:
            found.append((notebook.grade_id(cell), []))
        found[-1][1].append(cell)
    return found


def _is_kept(cell: Cell, own: list[Cell]) -> bool:
    """Whether an untracked cell of code is among those that the student has, so that it need not be there twice."""
    untracked = cell.cell_type == "code" and notebook.grade_id(cell) is None
    return untracked and cell.source.strip() in {other.source.strip() for other in own}


def answers(submission: Notebook, template: Notebook) -> dict[str, str]:
    """What the student wrote.

    Args:
        submission: The student's notebook, which is not changed.
        template: The released notebook.

    Returns:
        The sources of the solution cells by grade id, put together where a cell was split; and of each task what stands
        below it.
    """
    pieces, added = _sorted_out(restored(template, submission), template)
    asked = {notebook.grade_id(cell) for cell in template.cells if notebook.is_solution(cell)}
    tasks = _tasks(template)
    written = {name: "\n".join(sources) for name, sources in pieces.items() if name in asked}
    return written | {name: "\n".join(cell.source for cell in added.get(name, [])) for name in tasks if name}


def _sorted_out(submission: Notebook, template: Notebook) -> tuple[dict[str, list[str]], dict[str | None, list[Cell]]]:
    """The sources of the template's tracked cells by grade id (several where a cell was split), and fresh copies of the
    student's own code cells by the grade id of the cell that they follow. Text that a student added right behind an
    answer in words belongs to it, and text below a task is kept."""
    tracked = {notebook.grade_id(cell) for cell in template.cells} - {None}
    given = {cell.source.strip() for cell in template.cells if cell.cell_type == "markdown"}
    pieces: dict[str, list[str]] = {}
    tasks = _tasks(template)
    added: dict[str | None, list[Cell]] = {None: []}
    last, before = None, None
    for cell in submission.cells:
        if is_injected(cell):
            continue
        name = notebook.grade_id(cell)
        if name is None and before is not None and _goes_on(before, cell):
            name = last  # other editors than JupyterLab split a cell without its metadata
        if name is None and before is not None and notebook.is_manual(before) and cell.cell_type == "markdown":
            name = None if cell.source.strip() in given else last
        # A cell magic works only at the top of a cell, so such a piece cannot be joined to the one before.
        if name is not None and name in tracked and not (name in pieces and cell.source.lstrip().startswith("%%")):
            last, before = name, cell
            pieces.setdefault(name, []).append(cell.source)
        elif cell.cell_type == "code" or (last in tasks and _is_text(cell, given)):
            before = None
            added.setdefault(last, []).append(_own(cell))
    return pieces, added


def _goes_on(before: Cell, cell: Cell) -> bool:
    """Whether the cell is the rest of the answer before it: its first line is indented, and together they parse."""
    if before.cell_type != "code" or not notebook.is_solution(before) or cell.source[:1] not in (" ", "\t"):
        return False
    try:
        ast.parse(f"{before.source}\n{cell.source}")
        return True
    except SyntaxError:
        return False


def _answer(cell: Cell, pieces: list[str], submission: Notebook) -> str:
    """The source of a solution cell. JupyterLab's Split Cell takes out the line break at which it splits.

    Where the cell is missing it is left unwritten as in the template, unless another cell of the submission has taken
    its code in (as Merge Cells does): the unwritten one would then overwrite the answer.
    """
    if pieces:
        return "\n".join(pieces)
    asked = defined_in(cell.source) if cell.cell_type == "code" else set()
    written = any(asked & defined_in(other.source) for other in submission.cells if other.cell_type == "code")
    return "" if written else cell.source


def _tasks(template: Notebook) -> set[str | None]:
    """The grade ids of the tasks."""
    return {notebook.grade_id(cell) for cell in template.cells if notebook.is_task(cell)}


def _is_text(cell: Cell, given: set[str]) -> bool:
    """Whether the student wrote it: text that does not come with the assignment."""
    return cell.cell_type == "markdown" and cell.source.strip() not in given


def _own(cell: Cell) -> Cell:
    """A student's own code or text as a fresh cell: no metadata and no outputs."""
    import nbformat

    made = nbformat.v4.new_code_cell if cell.cell_type == "code" else nbformat.v4.new_markdown_cell
    return made(cell.source)
