"""Where the course is, and what assignments it has."""

import os
from dataclasses import dataclass
from pathlib import Path

from autograder import notebook
from course_lib.errors import CourseError

SOURCES = Path(__file__).parent / "source"
CONFIG = Path(__file__).parent / "nbgrader_config.py"


@dataclass(frozen=True)
class Assignment:
    """An assignment's source notebook, with solutions and hidden tests."""

    name: str
    path: Path

    def read(self) -> notebook.Notebook:
        """The source notebook."""
        return notebook.read(self.path)

    def summary(self) -> str:
        """One line on what is to be written."""
        return self.read().metadata.get("course", {}).get("summary", "")


def assignments() -> dict[str, Assignment]:
    """All assignments by name."""
    return {path.stem: Assignment(path.stem, path) for path in sorted(SOURCES.glob("*/*.ipynb"))}


def find(name: str) -> Assignment:
    """The assignment called `name`."""
    known = assignments()
    if name not in known:
        raise CourseError(f"There is no assignment {name!r}: there {_are(known)}.")
    return known[name]


def _are(known: dict) -> str:
    return f"{'is' if len(known) == 1 else 'are'} {', '.join(known)}"


def state_dir(chosen: Path | None = None) -> Path:
    """Where an instructor's gradebook, submissions and feedback are: `chosen`, $COURSE_DIR, or the clone's autograder/.

    Never inside an installed package.
    """
    if chosen or os.environ.get("COURSE_DIR"):
        return Path(chosen or os.environ["COURSE_DIR"]).resolve()
    here = Path(__file__).parent
    if (here.parent / "pyproject.toml").is_file():
        return here
    raise CourseError("Say where the gradebook and the submissions are: --course DIR, or set COURSE_DIR.")
