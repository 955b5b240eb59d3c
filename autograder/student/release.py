"""The student's version of an assignment: no solutions, no hidden tests."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from autograder.course import CONFIG, Assignment
from autograder.notebook import Notebook, read, write
from course_lib.cache import cache_dir
from course_lib.errors import CourseError

# nbgrader's own main, started as quickly as autograder.notebook starts nbformat
NBGRADER = "import autograder.notebook; from nbgrader.apps.nbgraderapp import main; main()"


def nbgrader(course: Path, *arguments: str, say: Callable[[str], object] = lambda line: None) -> str:
    """Run an nbgrader command on the course in `course`, in a process of its own; returns what it said, and passes each
    line to `say` as it comes.

    nbgrader changes the working folder and configures logging for the whole process, so ours is kept out of it. Its
    exit status also counts submissions that failed, which `grade` tells apart by reading the results.
    """
    if not (course / CONFIG.name).is_file():  # nbgrader looks for it in the course's folder
        shutil.copy(CONFIG, course)
    # nbgrader calls the program alembic, which is installed beside our Python and not always on a user's PATH
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    process = subprocess.Popen(
        [sys.executable, "-c", NBGRADER, *arguments],
        cwd=course,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    said = []
    with process:
        for line in process.stdout or ():
            said.append(line)
            say(line)
    return "".join(said)


@contextmanager
def scratch_course(assignment: Assignment) -> Iterator[Path]:
    """A temporary course with this assignment's source, for work that must not touch the instructor's gradebook."""
    with tempfile.TemporaryDirectory(prefix="course-") as folder:
        course = Path(folder)
        shutil.copytree(assignment.path.parent, course / "source" / assignment.name)
        yield course


def release(assignment: Assignment) -> Notebook:
    """The released notebook, made by nbgrader's own generate_assignment and cached for as long as its source stays."""
    digest = hashlib.sha256(assignment.path.read_bytes() + CONFIG.read_bytes()).hexdigest()[:16]
    cached = cache_dir() / "assignments" / f"{assignment.name}-{digest}.ipynb"
    if not cached.is_file():
        with scratch_course(assignment) as course:
            said = nbgrader(course, "generate_assignment", assignment.name, "--create")
            path = course / "release" / assignment.name / assignment.path.name
            if not path.is_file():
                raise CourseError(f"nbgrader could not release {assignment.name}:\n{said}")
            write(read(path), cached)
    return read(cached)


def write_release(assignment: Assignment, folder: Path, force: bool = False) -> Path:
    """Write the released notebook into `folder`. A notebook that is there already is somebody's work: it is only
    replaced with `force`."""
    target = folder / assignment.path.name
    if target.exists() and not force:
        raise CourseError(f"{target} exists and is left as it is: use --to FOLDER for a second copy, or --force.")
    write(release(assignment), target)
    return target
