"""Finds the submissions in a folder, whatever students and learning platforms have made of their names."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autograder import course, notebook
from autograder.course import Assignment
from autograder.notebook import Notebook
from autograder.rebuild import answers
from autograder.recognise import assignment_of
from autograder.student.release import release
from course_lib.errors import CourseError

IGNORED = ("__MACOSX", "__pycache__")  # and whatever begins with a dot, such as .ipynb_checkpoints


@dataclass(frozen=True)
class Submission:
    """A student's notebook; without a path where there is none to grade, and then `problem` says why.

    folder: the student's own folder; None where the notebook lies among those of the others.
    """

    student: str
    path: Path | None = None
    folder: Path | None = None
    problem: str = ""
    note: str = ""


def find_submissions(assignment: Assignment, folder: Path) -> dict[str, Submission]:
    """The submissions by student: each folder, and each notebook, in `folder` is a student's.

    nbgrader's own layout (STUDENT/NAME/NAME.ipynb), STUDENT/NAME.ipynb and STUDENT.ipynb are understood, and so are a
    learning platform's folders, other file names and folders within. Which notebook it is, is decided by its cells. A
    student who has only folders of other assignments has not submitted this one, and is left out.

    Args:
        assignment: The assignment to look for.
        folder: Where the submissions are. Nothing in it is changed.

    Returns:
        Each student's submission, by the student's name; one that was not found says why.

    Raises:
        CourseError: There is no submission.
    """
    places: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        if _ignored(entry.name):
            continue
        if entry.is_dir():
            places.setdefault(entry.name, []).append(entry)
        elif entry.suffix.lower() == ".ipynb":
            places.setdefault(entry.stem, []).append(entry)
    found = {student: _submission(assignment, student, folder, where) for student, where in sorted(places.items())}
    there = {student: submission for student, submission in found.items() if submission is not None}
    if not there:
        name = assignment.path.name
        raise CourseError(
            f"There is no submission in {folder}: expected STUDENT/{assignment.name}/{name}, STUDENT/{name} or"
            " STUDENT.ipynb (unpack what your learning platform gave you first)."
        )
    return there


def _submission(assignment: Assignment, student: str, folder: Path, places: list[Path]) -> Submission | None:
    """The student's submission of this assignment; None where there are only folders of other assignments."""
    others = _others(assignment).keys()
    files = [file for place in places for file in _files(place)]
    own = [file for file in files if file.relative_to(folder).parts[1:2] not in [(other,) for other in others]]
    if files and not own:
        return None
    notebooks = [file for file in own if file.suffix.lower() == ".ipynb"]
    if not notebooks:
        seen = ", ".join(sorted(file.name for file in own if file.name != "timestamp.txt")[:3])
        return Submission(student, problem=f"there is no notebook, only {seen}" if seen else "there is no notebook")
    return _chosen(assignment, student, folder, notebooks)


def _chosen(assignment: Assignment, student: str, folder: Path, files: list[Path]) -> Submission:
    """The one of the student's notebooks that is this assignment."""
    mine: dict[Path, Notebook] = {}
    problems: list[str] = []
    for file in files:
        try:
            submission = notebook.read(file)
        except CourseError as error:
            problems.append(str(error))
            continue
        found = assignment_of(submission, _known(assignment))
        if found is not None and found.name == assignment.name:
            mine[file] = submission
        else:
            what = f"is the assignment {found.name}, not {assignment.name}" if found else _unknown(assignment)
            problems.append(f"{file.relative_to(folder)} {what}")
    if not mine:
        return Submission(student, problem="; ".join(problems))
    distinct = _distinct(assignment, mine)
    named = [file for file in distinct if _is_named_right(assignment, file, folder)]
    if len(distinct) > 1 and len(named) != 1:
        names = ", ".join(str(file.relative_to(folder)) for file in distinct)
        return Submission(student, problem=f"several notebooks with different answers: keep one of {names}")
    chosen = (named or distinct)[0]
    notes = [] if named else [f"found as {chosen.relative_to(folder)}"]
    notes += [f"{file.relative_to(folder)} has other answers and was not graded" for file in distinct if file != chosen]
    own = folder / chosen.relative_to(folder).parts[0]
    return Submission(student, chosen, own if own != chosen else None, note="; ".join(notes + problems))


def _distinct(assignment: Assignment, mine: dict[Path, Notebook]) -> list[Path]:
    """One file of each group with the same answers. An unanswered copy does not count beside an answered one."""
    if len(mine) == 1:
        return list(mine)
    template = release(assignment)
    unanswered = answers(template, template)
    groups: dict[tuple, list[Path]] = {}
    for file, submission in mine.items():
        groups.setdefault(tuple(sorted(answers(submission, template).items())), []).append(file)
    if len(groups) > 1:
        groups.pop(tuple(sorted(unanswered.items())), None)
    right = assignment.path.name
    return [next((file for file in files if file.name == right), files[0]) for files in groups.values()]


def _is_named_right(assignment: Assignment, file: Path, folder: Path) -> bool:
    """Whether the file is where one of the layouts has it."""
    parts = file.relative_to(folder).parts[1:]
    return parts in ((), (assignment.path.name,), (assignment.name, assignment.path.name))


def _known(assignment: Assignment) -> list[Assignment]:
    """The assignments that a notebook may be; this one as the course has it."""
    return [assignment, *_others(assignment).values()]


def _others(assignment: Assignment) -> dict[str, Assignment]:
    """The other assignments of the course in whose `source` this one lies, and of the package."""
    known = course.assignments(assignment.path.resolve().parents[2])
    return {name: other for name, other in known.items() if name != assignment.name}


def _unknown(assignment: Assignment) -> str:
    asked = f"the functions that {assignment.name} asks for"
    return f"is not one of the course's assignments: it has neither their grade ids nor {asked}"


def _files(place: Path) -> Iterator[Path]:
    """The files in a folder and the folders below it; or the file itself."""
    if not place.is_dir():
        yield place
        return
    for entry in sorted(place.iterdir()):
        if not _ignored(entry.name):
            yield from _files(entry)


def _ignored(name: str) -> bool:
    return name.startswith(".") or name in IGNORED
