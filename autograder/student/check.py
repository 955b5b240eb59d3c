"""The student's check: the visible tests of the release, on the student's answers, in a fresh kernel."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autograder import course, notebook
from autograder.judging.judge import SECONDS, Judge, is_judged
from autograder.judging.results import details
from autograder.judging.warm import Warm
from autograder.notebook import Notebook
from autograder.rebuild import rebuild
from autograder.recognise import assignment_of
from autograder.student.release import release
from course_lib.errors import CourseError
from course_lib.suggestions import similar_paths

QUIET = 3.0  # seconds after which a student wants to hear that something is still happening


@dataclass(frozen=True)
class Outcome:
    """What became of one part; message is empty where its checks passed. details: further lines, such as a hint."""

    part: notebook.Part
    message: str
    details: tuple[str, ...] = ()


def check(
    path: Path,
    timeout: int = 120,
    tell: Callable[[Outcome], object] = lambda outcome: None,
    say: Callable[[str], object] = lambda line: None,
    part: str | None = None,
    warm: Warm | None = None,
) -> list[Outcome]:
    """Run the visible checks on the notebook at `path`, which is only read.

    Args:
        path: The student's notebook, whatever it is called.
        timeout: Seconds that a cell may take, where the assignment does not say less.
        tell: Called with the outcome of each part as soon as it is known.
        say: Called with a line of progress where there is nothing to tell for a while.
        part: The only part to check, by its number or its name; None for all of them.
        warm: Processes with the imports done, for one check after the other; by default each has its own.

    Returns:
        The outcome of each part, in order.

    Raises:
        CourseError: The file cannot be read, is not an assignment, or has no such part.
    """
    whole = _whole(path)
    parts = [each for each in notebook.parts(whole) if not each.manual]
    if part is not None:
        parts = [find_part(notebook.parts(whole), part)]
    if is_judged(whole) and hasattr(os, "fork"):  # elsewhere the tests run as nbgrader runs them
        return _judged(whole, parts, timeout, tell, say, warm)
    from autograder.student.in_kernel import Run

    run = Run(_up_to(whole, parts), timeout, tell, say)
    run.execute(path.resolve().parent)
    return run.outcomes


def _whole(path: Path) -> Notebook:
    """The student's answers among the assignment's own tests.

    The package has no source of an assignment that an instructor has written. A release of it carries its own tests.
    """
    submission = notebook.read(path)
    known = sorted(course.assignments().values(), key=lambda each: each.name != path.stem)
    assignment = assignment_of(submission, known)
    if assignment is not None:
        return rebuild(release(assignment), submission)
    if any(notebook.is_test(cell) for cell in submission.cells):
        return rebuild(submission, submission)
    raise CourseError(f"{path} is not one of the course's assignments: get one with `course assignment get NAME`.")


def find_part(parts: list[notebook.Part], wanted: str) -> notebook.Part:
    """The part that somebody means.

    Args:
        parts: All parts of an assignment, in order.
        wanted: Its number, counted from 1, the name of its cells, or some words of its title.

    Returns:
        A part that has checks.

    Raises:
        CourseError: There is no such part, there are several, or it is answered in words.
    """
    names = [part.id.removeprefix("check-") for part in parts]
    if wanted.isdecimal():
        found = parts[int(wanted) - 1 : int(wanted)] if int(wanted) else []
    else:
        found = [part for part, name in zip(parts, names, strict=True) if wanted in (part.id, name)]
        found = found or [part for part in parts if wanted.lower() in part.title.lower()]
    if len(found) != 1:
        what = "No part is" if not found else f"{len(found)} parts are"
        rows = zip(range(1, len(parts) + 1), names, parts, strict=True)
        listed = "; ".join(f"{number} ({name})" for number, name, part in rows if part in (found or parts))
        raise CourseError(f"{what} called {wanted!r}. Give a number or a name of these: {listed}.")
    if found[0].manual:
        raise CourseError(f"{found[0].title} is answered in words: your instructor reads it, and no check looks at it.")
    return found[0]


def _up_to(whole: Notebook, parts: list[notebook.Part]) -> Notebook:
    """The notebook up to the last of the parts, without the tests of others."""
    wanted = {part.id for part in parts}
    cells = [cell for cell in whole.cells if not notebook.is_test(cell) or notebook.grade_id(cell) in wanted]
    last = max((place for place, cell in enumerate(cells) if notebook.is_test(cell)), default=-1)
    whole.cells = cells[: last + 1]
    return whole


def _judged(
    whole: Notebook,
    parts: list[notebook.Part],
    timeout: int,
    tell: Callable[[Outcome], object],
    say: Callable[[str], object],
    warm: Warm | None,
) -> list[Outcome]:
    """The visible checks of some parts as the judge runs them, on one's own machine without the sandbox."""
    about, outcomes = whole.metadata["course"], list[Outcome]()
    about["seconds_per_cell"] = min(about.get("seconds_per_cell", SECONDS), timeout)
    with Judge(whole, sandbox=False, warm=warm) as judge:
        judge.launch(parts)
        for part in parts:
            with _said_when_slow(part, judge.clock.part, say):
                verdict = judge.verdict(part)
            outcomes.append(Outcome(part, verdict.message, tuple(details(verdict))))
            tell(outcomes[-1])
    return outcomes


@contextmanager
def _said_when_slow(part: notebook.Part, limit: float, say: Callable[[str], object]) -> Iterator[None]:
    """Say after three seconds that the part is still being checked."""
    timer = threading.Timer(QUIET, say, [f"{part.title} is still being checked (a cell may take {limit:g} s)"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def manual_parts(path: Path) -> list[notebook.Part]:
    """The parts of the assignment at `path` that a person grades, and no check looks at."""
    return [part for part in notebook.parts(_whole(path)) if part.manual]


def find_notebook(given: Path | None) -> Path:
    """The notebook that somebody means.

    Args:
        given: Its path, the assignment's name, or a folder, such as the one that nbgrader fetches; None: the only
            notebook here.

    Raises:
        CourseError: There is none, or there are several.
    """
    if given is None or (given.is_dir() and not Path(f"{given}.ipynb").is_file()):
        return _only_notebook(given)
    if given.is_file():
        return given
    by_name = Path(f"{given}.ipynb")
    if by_name.is_file():
        return by_name
    advice = similar_paths(given)
    if not advice and given.name in course.assignments():
        advice = f" Get it with `course assignment get {given.name}`."
    raise CourseError(f"The notebook {given} does not exist.{advice or ' `course assignment list` names them.'}")


def _only_notebook(folder: Path | None) -> Path:
    """The notebook in a folder, by default this one: the only one, or the one with the folder's name."""
    here = sorted((folder or Path.cwd()).glob("*.ipynb"))
    if folder is not None:
        here = [path for path in here if path.stem == folder.resolve().name] or here
    if len(here) != 1:
        place = "this folder" if folder is None else f"the folder {folder}"
        raise CourseError(f"Say which notebook you mean: {place} has {', '.join(p.name for p in here) or 'none'}.")
    return here[0]
