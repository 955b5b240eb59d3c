"""Hands a notebook in through nbgrader's exchange, where this machine is configured for one."""

import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autograder.student.submit import Prepared, Receipt, contents, kept
from course_lib.errors import CourseError

DEFAULT_ROOT = Path("/usr/local/share/nbgrader/exchange")  # nbgrader's own
NAMES = ("nbgrader_config.py", "nbgrader_config.json")


@dataclass(frozen=True)
class Exchange:
    """An exchange: its course, and where it is in words."""

    course: str
    place: str


def configured(here: Path | None = None) -> Exchange | None:
    """The exchange that nbgrader's configuration names; None where it names none.

    There is one where a course has a name (`CourseDirectory.course_id`) and `Exchange.root` is set, or another kind of
    exchange (`ExchangeFactory`), or nbgrader's default folder is there.

    Args:
        here: The folder whose configuration counts beside the system's and the user's; by default the current one.
    """
    settings = _settings(here or Path.cwd())
    name = _course_name(settings)
    root = settings.get("Exchange", {}).get("root") or (DEFAULT_ROOT if DEFAULT_ROOT.is_dir() else "")
    other = settings.get("ExchangeFactory", {}).get("submit", "")
    if not name or not (root or other):
        return None
    return Exchange(str(name), str(other or root))


def other_course_name(state: Path) -> str:
    """What to tell an instructor whose course has another name than students' nbgrader asks for; "" where it has not.

    Args:
        state: The course's folder. Its configuration names the course for nbgrader's commands in it, and the one that
            is meant for everybody, in a folder of Jupyter's, for students.
    """
    asked, ours = _course_name(_settings(None)), _course_name(_settings(state))
    if not asked or asked == ours:
        return ""
    return (
        f"this course is called {ours!r} in {state / NAMES[0]}, and Jupyter's configuration has students ask the"
        f" exchange for {asked!r}. Set c.CourseDirectory.course_id to the same name in both, or they will not find the"
        " assignment."
    )


def submit(prepared: Prepared, exchange: Exchange, folder: Path) -> Receipt:
    """Have `nbgrader submit` hand the notebook in.

    Args:
        prepared: What is handed in.
        exchange: What `configured` found.
        folder: Where the receipt goes.

    Returns:
        What the student keeps.

    Raises:
        CourseError: nbgrader refused it; with what it said.
    """
    with tempfile.TemporaryDirectory(prefix="course-submit-") as temporary:
        for place in (Path(prepared.name), Path(exchange.course) / prepared.name):  # path_includes_course may be set
            target = Path(temporary) / place
            target.mkdir(parents=True)
            (target / f"{prepared.name}.ipynb").write_bytes(prepared.content)
        said, status = _nbgrader(prepared.name, f"--course={exchange.course}", f"--Exchange.assignment_dir={temporary}")
    if status:
        raise CourseError(
            f"The nbgrader exchange of the course {exchange.course} ({exchange.place}) did not take {prepared.name}:"
            f" {_reason(said)} Ask your instructor, or make an archive with --archive."
        )
    time = datetime.now(UTC)
    entries = {"exchange": exchange.place, "course": exchange.course} | contents(prepared, time)
    file = f"{prepared.name} through the nbgrader exchange {exchange.place}, course {exchange.course}"
    return kept(file, folder / f"{prepared.name}-{time:%Y%m%dT%H%M%SZ}.receipt.json", entries)


def _nbgrader(*arguments: str) -> tuple[str, int]:
    """What `nbgrader submit` said, in the current folder, whose configuration it reads; and its exit status."""
    import subprocess

    from autograder.student.release import NBGRADER

    done = subprocess.run(
        [sys.executable, "-c", NBGRADER, "submit", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    return done.stdout, done.returncode


def _reason(said: str) -> str:
    """What nbgrader logged as errors, in one sentence or several."""
    lines = re.findall(r"^\[SubmitApp \| (?:ERROR|CRITICAL)\] (.*)$", said, re.M) or said.strip().splitlines()[-1:]
    return " ".join(line.strip().rstrip(".") + "." for line in lines)


def _course_name(settings: dict[str, dict[str, Any]]) -> str:
    return str(settings.get("CourseDirectory", {}).get("course_id", ""))


def _settings(here: Path | None) -> dict[str, dict[str, Any]]:
    """What nbgrader's configuration sets for a command that is given in a folder; None: what counts in any folder."""
    settings: dict[str, dict[str, Any]] = {}
    for file in _files(here):
        for kind, values in _loaded(file).items():
            settings.setdefault(kind, {}).update(values)
    return settings


def _files(here: Path | None) -> Iterator[Path]:
    """nbgrader's configuration files, the weakest first."""
    from jupyter_core.paths import jupyter_config_path

    for folder in [*map(Path, jupyter_config_path()[::-1]), *filter(None, [here])]:
        yield from (folder / name for name in NAMES if (folder / name).is_file())


def _loaded(file: Path) -> dict[str, Any]:
    from traitlets.config.loader import JSONFileConfigLoader, PyFileConfigLoader

    loader = PyFileConfigLoader if file.suffix == ".py" else JSONFileConfigLoader
    try:
        return dict(loader(file.name, path=str(file.parent)).load_config())
    except Exception as error:  # whatever a file of Python raises
        raise CourseError(
            f"nbgrader's configuration {file} cannot be read ({type(error).__name__}: {error}). Correct it, or make an"
            " archive with --archive."
        ) from error
