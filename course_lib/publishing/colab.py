"""The chapters as Colab opens them: the same notebooks behind a first cell that installs the course.

Colab opens notebooks from a branch of the published repository and has no copy of the course. The notebooks in
notebooks/ stay as they are; `.ci/colab` writes these copies over them on a branch of their own, which the Colab buttons
of the book lead to. The library on that branch is the one that the chapter was written for.
"""

import copy
import re
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError
from course_lib.execution.notebooks.project import find_chapters
from course_lib.files import write_json

BRANCH = "colab"
CELL_ID = "colab-setup"
# `%run` would be shorter, but it prints an error and lets the notebook go on.
FIRST_CELL = """# For Colab: this installs the course with its pinned packages, and takes the GPU if there is one.
![ -d ~/course ] || git clone --quiet --depth 1 --branch {branch} {address} ~/course
%cd -q ~/course
from course_lib.setup.colab import prepare

profile_here = prepare()"""
PROFILE_LINE = re.compile(r'(?m)^profile = "cpu".*$')
CHOSEN = 'profile = profile_here  # "gpu" or "cpu", as the first cell found'


def colab_copy(notebook: dict[str, Any], address: str, name: str) -> dict[str, Any]:
    """A chapter with a first cell that installs the course, and with the profile that this cell chooses.

    Args:
        notebook: the chapter, which is left as it is.
        address: of the published repository.
        name: of the chapter, for messages.

    Returns:
        The changed copy.

    Raises:
        CourseError: the chapter's parameters cell does not begin with `profile = "cpu"`.
    """
    changed = copy.deepcopy(notebook)
    given = [cell for cell in changed["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    text = "".join(given[0]["source"]) if len(given) == 1 else ""
    if not PROFILE_LINE.search(text):
        raise CourseError(f'{name}: Colab\'s copy needs one cell tagged `parameters` with a line `profile = "cpu"`.')
    given[0]["source"] = PROFILE_LINE.sub(CHOSEN, text, count=1).splitlines(keepends=True)
    cell = FIRST_CELL.format(branch=BRANCH, address=address).splitlines(keepends=True)
    first: dict[str, Any] = {"cell_type": "code", "execution_count": None, "id": CELL_ID, "metadata": {}, "outputs": []}
    changed["cells"].insert(0, first | {"source": cell})
    return changed


def write_copies(root: Path, folder: Path, repository: str | None = None) -> list[Path]:
    """Write the Colab copy of every chapter.

    Args:
        root: the clone.
        folder: where they go; chapters of the same names there are replaced.
        repository: the address of the published repository; None: the one in book/_config.yml.

    Returns:
        The files.
    """
    address = repository or published_address(root)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for chapter in find_chapters([], root):
        path = folder / chapter.path.name
        write_json(path, colab_copy(chapter.read(), address, chapter.id))
        written.append(path)
    return written


def published_address(root: Path) -> str:
    """The repository's address in book/_config.yml."""
    found = re.search(r"(?m)^  url: (\S+)$", (root / "book" / "_config.yml").read_text(encoding="utf-8"))
    if found is None:
        raise CourseError("book/_config.yml names no `repository: url`; add it, or give --repository URL.")
    return found[1]
