"""The student's check: the visible tests of the release, on the student's answers, in a fresh kernel."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from autograder import course, notebook
from autograder.student.release import release
from course_lib.errors import CourseError


@dataclass(frozen=True)
class Outcome:
    """What became of one part; message is empty where its checks passed."""

    part: notebook.Part
    message: str


def check(path: Path, timeout: int = 120) -> list[Outcome]:
    """Run the visible checks on the notebook at `path`, which is only read. timeout: seconds a cell may take."""
    submission = notebook.read(path)
    template = release(_assignment_of(submission, path))
    whole = notebook.rebuild(template, submission)
    _execute(whole, path.resolve().parent, timeout)
    return _outcomes(whole, {part.id: part for part in notebook.parts(template)})


def find_notebook(given: Path | None) -> Path:
    """The notebook to check: the one given, or the only one here."""
    if given is not None:
        return given
    here = sorted(Path.cwd().glob("*.ipynb"))
    if len(here) != 1:
        raise CourseError(f"Say which notebook to check: this folder has {', '.join(p.name for p in here) or 'none'}.")
    return here[0]


def _assignment_of(submission: notebook.Notebook, path: Path) -> course.Assignment:
    """The assignment whose answers and tests the notebook has most of; its file may have been renamed."""
    ids = {notebook.grade_id(cell) for cell in submission.cells if notebook.is_solution(cell) or notebook.is_test(cell)}
    shared = {a: len(ids & set(map(notebook.grade_id, a.read().cells)) - {None}) for a in course.assignments().values()}
    best = max(shared, key=lambda assignment: shared[assignment], default=None)
    if best is None or not shared[best]:
        raise CourseError(f"{path} is none of the course's assignments: get one with `course assignment get NAME`.")
    return best


def _execute(whole: notebook.Notebook, folder: Path, timeout: int) -> None:
    """Execute every cell, also behind errors; the outputs land in `whole`."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    client = NotebookClient(
        whole,
        timeout=timeout,
        allow_errors=True,
        kernel_name="python3",
        interrupt_on_timeout=True,  # the cell fails with KeyboardInterrupt and the next ones still run
        resources={"metadata": {"path": str(folder)}},
    )
    try:
        client.execute(stderr=subprocess.DEVNULL)  # the kernel's own chatter; a cell's stderr is in its outputs
    except (CellTimeoutError, DeadKernelError) as error:
        raise CourseError(
            f"The notebook stopped its kernel ({type(error).__name__}): is there an endless loop, or a call of exit()?"
        ) from error


def _outcomes(whole: notebook.Notebook, parts: dict[str, notebook.Part]) -> list[Outcome]:
    """What became of each part; where its answer does not even run, what Python says of the answer."""
    found, answer = [], ""
    for cell in whole.cells:
        if notebook.is_solution(cell):
            answer = _message(cell)
        elif notebook.is_test(cell):
            message = _message(cell)
            if message and answer and cell.execution_count is not None:
                message = f"the cell with your answer stops: {answer}"
            found.append(Outcome(parts[cell.metadata.nbgrader.grade_id], message))
    return found


def _message(cell: notebook.Cell) -> str:
    """What a cell complained about, without colours and traceback."""
    if cell.execution_count is None:
        return "the checks were not reached"
    for output in cell.outputs:
        if output.output_type == "error":
            text = re.sub(r"\x1b\[[0-9;]*m", "", output.evalue).strip()
            if output.ename == "KeyboardInterrupt":
                return "it took too long and was stopped: is there an endless loop?"
            kind = "" if output.ename == "AssertionError" else f"{output.ename}: "
            return f"{kind}{text}" or output.ename
    return ""
