"""Where the course is, and what assignments it has.

The package carries the sources of the assignments and nbgrader's configuration. An instructor's folder (`state_dir`)
holds copies of both, with the submissions, the gradebook and the feedback.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from autograder import notebook
from course_lib.errors import CourseError
from course_lib.suggestions import did_you_mean

SOURCES = Path(__file__).parent / "source"
CONFIG = Path(__file__).parent / "nbgrader_config.py"
# what lies beside a source and is not for submissions, such as `.git`, `.env` and an editor's copies of the solution
NOT_GIVEN = shutil.ignore_patterns("*.ipynb", ".*", "__pycache__")


@dataclass(frozen=True)
class Assignment:
    """An assignment's source notebook, with solutions and hidden tests.

    name: its name for students, and the folder's name in nbgrader's layout. path: the notebook.
    """

    name: str
    path: Path

    def read(self) -> notebook.Notebook:
        """The source notebook."""
        return notebook.read(self.path)

    def summary(self) -> str:
        """One line on what is to be written."""
        return self.read().metadata.get("course", {}).get("summary", "")


def assignments(state: Path | None = None) -> dict[str, Assignment]:
    """All assignments by name: those that the package carries, and those of the instructor's own course.

    A folder of nbgrader's may hold several notebooks, none of which has the folder's name. Each is an assignment of its
    own here: source/ps1/problem1.ipynb is "ps1-problem1".

    Args:
        state: The course's folder, whose `source` is looked at too; None: $COURSE_DIR, where it is set. Its own copy of
            an assignment counts more than the package's.

    Raises:
        CourseError: Two notebooks of the course would have the same name.
    """
    found = {path.stem: Assignment(path.stem, path) for path in sorted(SOURCES.glob("*/*.ipynb"))}
    own = state or os.environ.get("COURSE_DIR")
    for path in sorted(Path(own).resolve().glob("source/*/*.ipynb")) if own else []:
        if path.stem == path.parent.name:
            found[path.stem] = Assignment(path.stem, path)
        elif not path.with_name(f"{path.parent.name}.ipynb").is_file():
            name = f"{path.parent.name}-{path.stem}"
            if name in found and found[name].path.stem != name:
                raise CourseError(f"{found[name].path} and {path} are both the assignment {name}: rename one of them.")
            found.setdefault(name, Assignment(name, path))
    return dict(sorted(found.items()))


def find(name: str, state: Path | None = None) -> Assignment:
    """The assignment called `name`.

    Args:
        name: Its name.
        state: The course's folder, as in `assignments`.

    Returns:
        The assignment, with the path of its source.

    Raises:
        CourseError: There is none; the message lists those that there are.
    """
    known = assignments(state)
    several = [other for other in known if other.startswith(f"{name}-")]
    folder = _folder(state, name)
    # an assignment of the package that has the folder's name must not be copied into it
    if several and folder.is_dir() and not (folder / f"{name}.ipynb").is_file():
        raise CourseError(
            f"{folder} has no {name}.ipynb, and `course` takes each of its notebooks for an assignment of its own: name"
            f" one of {', '.join(several)}."
        )
    if name not in known:
        raise CourseError(f"There is no assignment {name!r}: there {_are(known)}.{did_you_mean(name, known)}")
    return known[name]


def _folder(state: Path | None, name: str) -> Path:
    """Where an instructor's own course has the source of an assignment."""
    return Path(state or os.environ.get("COURSE_DIR") or SOURCES.parent) / "source" / name


def _are(known: dict) -> str:
    return f"{'is' if len(known) == 1 else 'are'} {', '.join(known)}"


def state_dir(chosen: Path | None = None) -> Path:
    """Where an instructor's gradebook, submissions and feedback are. It is never inside an installed package.

    Args:
        chosen: What the instructor said; None: $COURSE_DIR, or autograder/ where the course runs from a clone.

    Returns:
        The folder as an absolute path. It need not exist yet.

    Raises:
        CourseError: Nothing says where it is.
    """
    if chosen or os.environ.get("COURSE_DIR"):
        return Path(chosen or os.environ["COURSE_DIR"]).resolve()
    here = Path(__file__).parent
    if (here.parent / "pyproject.toml").is_file():
        return here
    raise CourseError("Say where the gradebook and the submissions are: --course DIR, or set COURSE_DIR.")
