"""Verdicts as nbgrader has results: in the outputs of the test cells, from which it takes the points."""

from collections.abc import Iterable

from autograder import notebook
from autograder.judging.judge import Verdict
from autograder.notebook import NOT_REACHED, Notebook

NO_SANDBOX = (
    "GRADED WITHOUT A SANDBOX: the submission's code ran with the grader's rights and could read and change its files."
)

FORGEABLE = "the tests ran in the submission's own process, so a score could be forged"


def write_results(whole: Notebook, verdicts: Iterable[Verdict], *, sandbox: bool = True) -> None:
    """Put the verdicts into the notebook, in the place of whatever outputs it has.

    To nbgrader an error is no points, a number is a partial score, and no output is all points.

    Args:
        whole: The notebook, which is changed.
        verdicts: One of each part.
        sandbox: False where there was none: the notebook, and so the feedback, says it.
    """
    cells = {notebook.grade_id(cell): cell for cell in whole.cells}
    for cell in whole.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    for verdict in verdicts:
        cell = cells[verdict.part.id]
        if verdict.points:
            _give(cell, verdict)
        elif verdict.message:
            notebook.add_error(cell, NOT_REACHED if not verdict.reached else "AssertionError", explained(verdict))
    if not sandbox:
        say_unsandboxed(whole)


def say_unsandboxed(whole: Notebook) -> None:
    """Have a notebook, and so the feedback, say that it was graded without a sandbox.

    Args:
        whole: The notebook, which is changed.
    """
    first = next((cell for cell in whole.cells if cell.cell_type == "code" and not notebook.is_test(cell)), None)
    if first is not None:
        import nbformat

        first.outputs.append(nbformat.v4.new_output("stream", name="stdout", text=f"{NO_SANDBOX}\n"))


def explained(verdict: Verdict) -> str:
    """Why a part did not get its points: what was expected and what came, on which input, and what to try.

    Args:
        verdict: One with a message.
    """
    return "\n".join([verdict.message, *details(verdict)])


def details(verdict: Verdict) -> list[str]:
    """What is said besides the message: the call that it is about, and the assignment's hint."""
    said = []
    call = verdict.called.removeprefix("the call was ")
    if call and not verdict.cell and call not in verdict.message:
        said.append(verdict.called)
    if verdict.hint and not verdict.cell:
        said.append(f"hint: {verdict.hint}")
    return said


def _give(cell: notebook.Cell, verdict: Verdict) -> None:
    """All points, which is no output; or some of them, which nbgrader reads from the cell's result."""
    if verdict.points == verdict.part.points:
        return
    import nbformat

    said = nbformat.v4.new_output("stream", name="stdout", text=f"{explained(verdict)}\n")
    number = nbformat.v4.new_output("execute_result", {"text/plain": f"{verdict.points:g}"})
    cell.outputs += [said, number]
