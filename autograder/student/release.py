"""The student's version of an assignment: no solutions, no hidden tests."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autograder.configuration import place
from autograder.course import CONFIG, Assignment
from autograder.notebook import Notebook, read, write
from course_lib.cache import cache_dir
from course_lib.errors import CourseError

# nbgrader's own main, started as quickly as autograder.notebook starts nbformat
NBGRADER = "import autograder.notebook; from nbgrader.apps.nbgraderapp import main; main()"


def nbgrader(course: Path, *arguments: str) -> str:
    """Run an nbgrader command in a process of its own.

    nbgrader changes the working folder and configures logging for the whole process, so ours is kept out of it. Its
    exit status does not tell whether there is a result: look for it.

    Args:
        course: The course's folder, with its `source`; it gets our configuration where it has none.
        arguments: The command and its options.

    Returns:
        What nbgrader said.
    """
    place(course)
    done = subprocess.run(
        [sys.executable, "-c", NBGRADER, *arguments],
        cwd=course,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    return done.stdout


@contextmanager
def scratch_course(assignment: Assignment) -> Iterator[Path]:
    """A temporary course with this assignment's source, for work that must not touch the instructor's gradebook."""
    with tempfile.TemporaryDirectory(prefix="course-") as folder:
        course = Path(folder)
        shutil.copytree(assignment.path.parent, course / "source" / assignment.name)
        yield course


def release(assignment: Assignment) -> Notebook:
    """The released notebook, made by nbgrader's own generate_assignment and cached for as long as its source stays.

    Raises:
        CourseError: nbgrader made none, with what it said.
    """
    digest = hashlib.sha256(assignment.path.read_bytes() + CONFIG.read_bytes()).hexdigest()[:16]
    cached = cache_dir() / "assignments" / f"{assignment.name}-{digest}.ipynb"
    if not cached.is_file():
        with scratch_course(assignment) as course:
            # without a gradebook, which takes nbgrader three seconds to make
            said = nbgrader(course, "generate_assignment", assignment.name, "--no-db")
            path = course / "release" / assignment.name / assignment.path.name
            if not path.is_file():
                raise CourseError(f"nbgrader could not release {assignment.name}:\n{said}")
            write(read(path), cached)
    return read(cached)


def write_release(assignment: Assignment, folder: Path, force: bool = False) -> Path:
    """Write the released notebook into `folder`.

    Args:
        assignment: The assignment.
        folder: Where the notebook goes, under the assignment's name.
        force: Replace a notebook that is there already.

    Returns:
        The notebook's path.

    Raises:
        CourseError: A notebook is there already, which is somebody's work.
    """
    target = folder / assignment.path.name
    if target.exists() and not force:
        raise CourseError(f"{target} exists and is left as it is: use --to FOLDER for a second copy, or --force.")
    write(release(assignment), target)
    return target
