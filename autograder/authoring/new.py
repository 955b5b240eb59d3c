"""A new assignment: a template that can be released, checked and graded as it is."""

import keyword
import re
from pathlib import Path

from autograder import notebook
from autograder.course import assignments
from course_lib.errors import CourseError

TEMPLATE = Path(__file__).parent / "template" / "template.ipynb"
NAME = re.compile(r"[a-z][a-z0-9_]*")


def write_template(name: str, state: Path) -> Path:
    """Write the source of a new assignment into a course's folder, COURSE/source/NAME/NAME.ipynb.

    Args:
        name: The assignment's name: small letters, digits and underscores.
        state: The course's folder.

    Returns:
        The notebook's path.

    Raises:
        CourseError: The name cannot be one, or there is such an assignment.
    """
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise CourseError(
            f"The name {name!r} cannot be an assignment's: use small letters, digits and _, beginning with a letter."
        )
    if name in (known := assignments(state)):
        raise CourseError(f"There is an assignment {name!r} already, {known[name].path}: choose another name.")
    source = notebook.read(TEMPLATE)
    source.cells[0].source = source.cells[0].source.replace("TITLE", name.replace("_", " ").capitalize(), 1)
    path = state / "source" / name / f"{name}.ipynb"
    notebook.write(source, path)
    return path
