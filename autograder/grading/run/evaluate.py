"""Finds out what a submission's tests say, without the gradebook, so that several of these processes work at once:

    python -m autograder.grading.run.evaluate ASSIGNMENT

It starts in the course's folder and takes tasks as `gradebook.worker` does. There is one:

- {"task": "evaluate", "student": NAME, "whole": FILE, "result": FILE, "sandbox": true, "parts": [...], "earlier": FILE}

WHOLE is the rebuilt submission with the assignment's own tests. What came of them is in the outputs of RESULT, which
`gradebook.worker` then books. Where the parts are named, the others keep the outputs that they have in EARLIER. Events
are "slow", "stopped", "flagged" and "evaluated", or "problem" with what went wrong.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable, Container
from functools import cached_property
from pathlib import Path
from typing import Any

from autograder import notebook
from autograder.course import NOT_GIVEN
from autograder.grading.workers.events import private_output, serve
from autograder.judging.judge import Judge, is_judged
from autograder.judging.results import say_unsandboxed, write_results
from autograder.judging.secret import secret_seed
from autograder.judging.warm import Warm
from autograder.notebook import Cell, Notebook


class Evaluator:
    """Evaluates one submission after the other; what it needs for that is loaded once.

    Args:
        assignment: The assignment's name.
        tell: Called with each event, its fields by name.
        warm: The processes in which judged submissions run.
    """

    def __init__(self, assignment: str, tell: Callable[..., None], warm: Warm) -> None:
        self.assignment, self.tell, self.warm = assignment, tell, warm

    def evaluate(
        self,
        student: str,
        whole: str,
        result: str,
        sandbox: bool = True,
        parts: list[str] | None = None,
        earlier: str = "",
    ) -> None:
        """Run a submission's tests, and write the notebook with what came of them.

        Args:
            student: Whose it is.
            whole: The file with the rebuilt submission.
            result: The file to write.
            sandbox: Whether the submission runs in the sandbox.
            parts: The grade ids of the parts to judge; None for all of them.
            earlier: The file with the results of the other parts.
        """
        try:
            found = notebook.read(Path(whole))
            if is_judged(found):
                self._judge(student, found, sandbox, parts)
            else:
                self._run(student, found, sandbox)
            if parts is not None:
                keep_outputs(found, notebook.read(Path(earlier)), parts)
            notebook.write(found, Path(result))
            self.tell("evaluated", student=student)
        except (Exception, SystemExit) as error:  # whatever it is, it is this submission's, and nobody else's
            self.tell("problem", student=student, error=f"{type(error).__name__}: {error}")

    def _judge(self, student: str, whole: Notebook, sandbox: bool, parts: list[str] | None) -> None:
        """The judge decides: see `autograder.judging`."""
        with Judge(whole, sandbox=sandbox, seed=secret_seed(Path.cwd()), warm=self.warm) as judge:
            if parts is None:
                verdicts = judge.verdicts()
            else:
                verdicts = [judge.verdict(part) for part in notebook.parts(whole) if part.id in parts]
        write_results(whole, verdicts, sandbox=sandbox)
        if judge.flagged:
            self.tell("flagged", student=student, text="; ".join(judge.flagged))

    def _run(self, student: str, whole: Notebook, sandbox: bool) -> None:
        """The tests run in the submission's own process, in a folder with what the assignment comes with."""
        from autograder.grading.gradebook.converters import Execute
        from autograder.grading.run.classic import SandboxedExecute

        def heard(event: str, _cell: Cell, text: str) -> None:
            if event in ("slow", "stopped"):
                self.tell(event, student=student, text=text)

        execute = (SandboxedExecute if sandbox else Execute)(parent=self._app)
        execute.tell = heard
        with tempfile.TemporaryDirectory(prefix="course-run-") as folder:
            ours = Path("source") / self.assignment
            shutil.copytree(ours, folder, ignore=NOT_GIVEN, dirs_exist_ok=True)
            execute.preprocess(whole, {"metadata": {"path": folder}})
        if not sandbox:
            say_unsandboxed(whole)

    @cached_property
    def _app(self) -> Any:
        """nbgrader's application, for the course's configuration."""
        from nbgrader.apps.autogradeapp import AutogradeApp

        app = AutogradeApp()
        app.initialize([self.assignment, "--create", "--force"])
        return app


def keep_outputs(whole: Notebook, earlier: Notebook, judged: Container[str]) -> None:
    """Give the tests that were not run the outputs that they had.

    Args:
        whole: The notebook with the new results, which is changed.
        earlier: The notebook with the others.
        judged: The grade ids of the tests whose results are new.
    """
    before = {notebook.grade_id(cell): cell for cell in earlier.cells}
    for cell in whole.cells:
        name = notebook.grade_id(cell)
        if notebook.is_test(cell) and name not in judged:
            cell.outputs = before[name].outputs


def main(assignment: str) -> None:
    """Do the tasks on standard input until it ends."""
    with private_output() as tell, Warm() as warm:
        serve(Evaluator(assignment, tell, warm), tell)


if __name__ == "__main__":
    main(sys.argv[1])
