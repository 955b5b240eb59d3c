"""nbgrader's own classes with what this course needs of them. `nbgrader_config.py` names the first two, so that
nbgrader's commands and formgrader use them as `course grade` does."""

import os
from pathlib import Path
from typing import Any

from nbgrader import converters, preprocessors
from nbgrader.utils import rmtree

from autograder import notebook
from autograder.grading.gradebook.feedback import FeedbackExporter
from autograder.judging.judge import Judge, is_judged
from autograder.judging.results import write_results
from autograder.notebook import Notebook
from autograder.rebuild import is_injected
from autograder.running import CellRunner, not_reached
from course_lib.errors import CourseError


class Execute(CellRunner, preprocessors.Execute):
    """Executes a submission so that one bad cell costs no more than it must: see `CellRunner`.

    Where the assignment's checks are made for it, the judge decides instead, and no kernel is started.

    Attributes:
        sandbox: Whether the judge runs submissions in the sandbox.
        seed: The course's secret, see `judging.secret`.
        results: The folder with what came of the tests already, as STUDENT/ASSIGNMENT/NOTEBOOK; nothing is run then.
    """

    sandbox = True
    seed: int | None = None
    results: Path | None = None

    def preprocess(self, nb: Any, resources: Any, km: Any = None) -> tuple[Any, Any]:
        """nbconvert's.

        Args:
            nb: The submission, with the source's tests; its outputs are replaced.
            resources: nbconvert's own.
            km: A kernel's manager, for the assignments that are not judged.

        Returns:
            The notebook and the resources.
        """
        if self.results is not None:
            about = resources["nbgrader"]
            there = self.results / about["student"] / about["assignment"] / f"{about['notebook']}.ipynb"
            take_outputs(nb, notebook.read(there))
            return nb, resources
        nb.cells = [cell for cell in nb.cells if not is_injected(cell)]  # nbgrader's own commands do not rebuild
        if not is_judged(nb):
            return super().preprocess(nb, resources, km)
        with Judge(nb, sandbox=self.sandbox, seed=self.seed) as judge:
            verdicts = judge.verdicts()
        write_results(nb, verdicts, sandbox=self.sandbox)
        if judge.flagged:
            self.tell("flagged", nb, "; ".join(judge.flagged))
        return nb, resources


def take_outputs(nb: Notebook, results: Notebook) -> None:
    """Give a notebook the outputs of the same notebook after its tests were run.

    Args:
        nb: The notebook that nbgrader books, which is changed.
        results: The one that was evaluated.

    Raises:
        CourseError: They differ in a cell: the outputs belong to something else.
    """
    if [cell.source for cell in nb.cells] != [cell.source for cell in results.cells]:
        raise CourseError("what was evaluated is not what nbgrader grades: was the assignment changed meanwhile?")
    for cell, evaluated in zip(nb.cells, results.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = evaluated.outputs, evaluated.execution_count


class SaveAutoGrades(preprocessors.SaveAutoGrades):
    """Writes the points into the gradebook; a part whose checks were not reached has none, and waits for a person."""

    def _add_score(self, cell: Any, resources: Any) -> None:
        super()._add_score(cell, resources)
        if not_reached(cell):
            name = cell.metadata["nbgrader"]["grade_id"]
            grade = self.gradebook.find_grade(name, self.notebook_id, self.assignment_id, self.student_id)
            grade.auto_score, grade.needs_manual_grade = None, True
            self.gradebook.db.commit()


class _OneStudent:
    """To be put before a `BaseConverter`: it converts the submission of `student` alone.

    nbgrader would look for students by a pattern of file names, and go on to the next one after an error, so that one
    can only guess whose it was. Here an error is raised as it is.
    """

    student = ""

    def init_notebooks(self: Any) -> None:
        """Without nbgrader's pattern, in which brackets in a name have a meaning."""
        source = self._format_source(self.coursedir.assignment_id, self.student)
        self.assignments = {source: sorted(map(str, Path(source).glob("*.ipynb")))}

    def convert_notebooks(self: Any) -> None:
        """nbgrader's loop over students, for one."""
        assignment, student = self.coursedir.assignment_id, self.student
        ((_, self.notebooks),) = self.assignments.items()
        if not self.init_destination(assignment, student):
            return
        try:
            self.run_pre_convert_hook()
            self.init_assignment(assignment, student)
            for file in self.notebooks:
                self.convert_single_notebook(file)
            self.set_permissions(assignment, student)
            self.run_post_convert_hook()
        except BaseException:
            unfinished = os.path.normpath(self._format_dest(assignment, student))
            if os.path.exists(unfinished):
                rmtree(unfinished)
            raise


class Autograde(_OneStudent, converters.Autograde):
    """Grades one student, by the classes above whatever an older `nbgrader_config.py` says."""

    def __init__(self: Any, **options: Any) -> None:
        super().__init__(**options)
        ours = {preprocessors.Execute: Execute, preprocessors.SaveAutoGrades: SaveAutoGrades}
        self.autograde_preprocessors: list = [ours.get(each, each) for each in self.autograde_preprocessors]

    def convert_single_notebook(self: Any, notebook_filename: str) -> None:
        """In one pass where the tests have been run: nbgrader's second one reads again what the first has written, and
        what was evaluated is built of the assignment's own cells, with no duplicates, and outputs of nobody else."""
        if Execute.results is None:
            super().convert_single_notebook(notebook_filename)
            return
        self._sanitizing = True  # it is read from the submissions
        self.exporter._preprocessors = []
        for each in [preprocessors.OverwriteKernelspec, preprocessors.OverwriteCells, *self.autograde_preprocessors]:
            self.exporter.register_preprocessor(each)
        converters.base.BaseConverter.convert_single_notebook(self, notebook_filename)


class GenerateFeedback(_OneStudent, converters.GenerateFeedback):
    """Writes the feedback of one student."""

    def __init__(self: Any, **options: Any) -> None:
        super().__init__(**options)
        self.force = True  # nbgrader would leave a page that has the submission's time, though it was graded again
        self.exporter_class = FeedbackExporter
