"""Tries an assignment's source as a term will: its release, an unwritten copy, our own answers, and nbgrader."""

import ast
import copy
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from autograder import notebook
from autograder.course import Assignment
from autograder.judging.checks import checks
from autograder.judging.judge import Judge, is_judged
from autograder.notebook import Cell, Notebook
from autograder.rebuild import rebuild
from autograder.sandbox import bubblewrap
from autograder.student.release import release
from course_lib.errors import CourseError

SOLUTION = re.compile(r"^\s*### (?:BEGIN|END) SOLUTION\n?", re.M)
HIDDEN = "### BEGIN HIDDEN TESTS"
SEEDS = (None, 1, 2, 3)  # of the secret that varies the hidden inputs


def verify(assignment: Assignment, say: Callable[[str], object] = print) -> list[str]:
    """Try all that can be tried without a person.

    Args:
        assignment: The source.
        say: Called with each step, and with each problem as it is found.

    Returns:
        The problems, in words; none where the assignment can be released.
    """
    problems: list[str] = []
    source = assignment.read()
    steps: list[tuple[str, Callable[[], Iterator[str]]]] = [
        ("the source", lambda: _source(source)),
        ("the release has no solution and no hidden test", lambda: _release(assignment)),
        ("an unwritten copy gets no points", lambda: _unwritten(assignment, source)),
        ("the answers of the source get all points, with other random inputs too", lambda: _reference(source)),
        ("nbgrader grades them the same", lambda: _graded(assignment, source)),
    ]
    for title, step in steps:
        say(title)
        try:
            found = list(step())
        except CourseError as error:
            found = [str(error)]
        for problem in found:
            say(f"  PROBLEM: {problem}")
        problems += found
        if found and step is steps[0][1]:
            break  # what comes next needs a sound source
    return problems


def _source(source: Notebook) -> Iterator[str]:
    """What each part must have."""
    about, parts = source.metadata.get("course", {}), notebook.parts(source)
    if not parts:
        yield "there is no graded cell: give test cells points in nbgrader's Create Assignment sidebar"
    if not about.get("summary"):
        yield "the notebook's metadata have no course.summary, a line for `course assignment list`"
    if not about.get("hours"):
        yield "the notebook's metadata have no course.hours, the time that a student needs"
    if not is_judged(source):
        yield "the notebook's metadata do not say course.judged: true, so its tests run in the submissions' processes"
    ids = [name for cell in source.cells if (name := notebook.grade_id(cell)) is not None]
    for name in sorted({name for name in ids if ids.count(name) > 1}):
        yield f"two cells have the grade id {name!r}"
    for cell in source.cells:
        if notebook.is_test(cell):
            yield from _test_cell(cell)
        elif notebook.is_solution(cell) and cell.cell_type == "code" and not SOLUTION.search(cell.source):
            yield f"the answer {notebook.grade_id(cell)!r} has no ### BEGIN SOLUTION … ### END SOLUTION"


def _test_cell(cell: Cell) -> Iterator[str]:
    name = cell.metadata.nbgrader.grade_id
    try:
        found = list(checks(name, cell.source))
    except SyntaxError as error:
        yield f"the test {name!r} is not Python: {error.msg}, line {error.lineno}"
        return
    asserted = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Assert)]
    for node in asserted:
        if node.msg is None:
            yield f"the test {name!r} has an assertion without a message, `{ast.unparse(node)}`"
    if HIDDEN not in cell.source:
        yield f"the test {name!r} has no hidden tests: ### BEGIN HIDDEN TESTS … ### END HIDDEN TESTS"
    if any(check.hidden and not check.note for check in found):
        yield f"the test {name!r} has hidden tests without a comment `# Property: wrong when …` above them"
    if not re.search(r"assert |check_", cell.source.split(HIDDEN)[0].replace("check_own", "")):
        yield f"the test {name!r} has no visible check"


def _release(assignment: Assignment) -> Iterator[str]:
    """What nbgrader's generate_assignment must have taken out."""
    for cell in release(assignment).cells:
        if "SOLUTION" in cell.source or "HIDDEN" in cell.source:
            yield f"the released cell {notebook.grade_id(cell) or cell.get('id')!r} still has a marker in it"


def _unwritten(assignment: Assignment, source: Notebook) -> Iterator[str]:
    template = release(assignment)
    with Judge(rebuild(source, template), sandbox=False) as judge:
        for verdict in judge.verdicts():
            if not verdict.message:
                yield f"{verdict.part.title}: the unwritten answer passes"


def written(source: Notebook) -> Notebook:
    """A submission with the answers of the source.

    Args:
        source: The source, which is not changed.
    """
    whole = copy.deepcopy(source)
    for cell in whole.cells:
        if notebook.is_solution(cell):
            cell.source = SOLUTION.sub("", cell.source)
    return whole


def _reference(source: Notebook) -> Iterator[str]:
    for seed in SEEDS:
        with Judge(written(source), sandbox=False, seed=seed) as judge:
            for verdict in judge.verdicts():
                if verdict.message:
                    which = "" if seed is None else f" with the secret {seed}"
                    yield f"{verdict.part.title}: the answer of the source fails{which}: {verdict.message}"


def _has_sandbox() -> bool:
    try:
        bubblewrap.require()
    except CourseError:
        return False  # our own answers may run with our own rights
    return True


def _graded(assignment: Assignment, source: Notebook) -> Iterator[str]:
    """The whole way of a submission, in a temporary course."""
    from autograder.grading.collect.submissions import find_submissions
    from autograder.grading.run.grade import grade

    with tempfile.TemporaryDirectory(prefix="course-verify-") as folder:
        notebook.write(written(source), Path(folder) / "in" / "reference.ipynb")
        found = find_submissions(assignment, Path(folder) / "in")
        sandbox = is_judged(source) and _has_sandbox()
        (result,) = grade(assignment, found, Path(folder) / "course", sandbox=sandbox, say=lambda line: None)
    if result.problem:
        yield result.problem
    for part in notebook.parts(source):
        if not part.manual and result.points.get(part.id) != part.points:
            yield f"{part.title}: {result.points.get(part.id, 'no')} of {part.points:g} points"
