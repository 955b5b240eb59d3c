"""The student's check as nbgrader runs an assignment: each cell of the notebook in one kernel, the tests too.

`check` uses it for assignments whose checks are not made for the judge, and on systems that cannot fork.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

from nbclient import NotebookClient

from autograder import notebook
from autograder.judging.explain import complaint, lost_points
from autograder.notebook import NOT_REACHED, TOO_LONG, Cell, Notebook
from autograder.running import CellRunner
from autograder.student.check import Outcome


class Client(CellRunner, NotebookClient):
    """nbclient's, with what `CellRunner` does when a cell takes too long or ends its kernel."""


class Run:
    """One execution of a rebuilt notebook, and what became of its parts so far.

    Args:
        whole: The rebuilt notebook.
        timeout: Seconds that a cell may take.
        tell: Called with what became of each part.
        say: Called with a line about what happens.
    """

    def __init__(
        self, whole: Notebook, timeout: int, tell: Callable[[Outcome], object], say: Callable[[str], object]
    ) -> None:
        self.whole, self.timeout, self.tell, self.say = whole, timeout, tell, say
        self.parts = {part.id: part for part in notebook.parts(whole) if not part.manual}
        self.outcomes: list[Outcome] = []
        self.answer = ""  # what the last solution cell complained about

    def execute(self, folder: Path) -> None:
        """Execute every cell in `folder`, also behind errors."""
        self.client = Client(
            self.whole,
            timeout=self.timeout,
            allow_errors=True,
            interrupt_on_timeout=True,
            error_on_timeout={"ename": TOO_LONG, "evalue": "", "traceback": []},
            raise_on_iopub_timeout=True,
            resources={"metadata": {"path": str(folder)}},
        )
        self.client.tell = self._heard
        self.client.execute(stderr=subprocess.DEVNULL)  # the kernel's own chatter; a cell's stderr is in its outputs

    def _heard(self, event: str, cell: Cell, text: str) -> None:
        """What the client tells of a cell."""
        if event == "slow":
            self.say(text)
        elif event == "end" and notebook.is_solution(cell):
            was_run = not any(output.get("ename") == NOT_REACHED for output in cell.outputs)
            self.answer = self._complaint(cell) if was_run else ""
        elif event == "end" and notebook.is_test(cell):
            message = self._complaint(cell) or lost_points(cell)
            if message and self.answer:
                message = f"the cell with your answer stops: {self.answer}"
            self.outcomes.append(Outcome(self.parts[cell.metadata.nbgrader.grade_id], message))
            self.tell(self.outcomes[-1])

    def _complaint(self, cell: Cell) -> str:
        return complaint(self.whole, cell, self.client.limit_of(cell))
