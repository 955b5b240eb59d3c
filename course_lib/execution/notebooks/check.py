"""What holds for every notebook in the repository: outputs stripped, cell ids that stay, one `parameters` cell in a
lecture, and no path that exists on the author's machine only.

    python course_lib/execution/notebooks/check.py [NOTEBOOK ...]     (none: every notebook git knows)

Standard library only, so that pre-commit can run the file before anything is installed.
"""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# https://nbformat.readthedocs.io/en/latest/format_description.html#cell-ids
CELL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# A quoted path or a Markdown link that starts at the root, in a home folder or on a drive.
ABSOLUTE_PATH = re.compile(r"""["'(](?P<path>(?:/|~/|[A-Za-z]:[\\/]{1,2})[\w.-]+[\\/][^"')\s]*)""")
SYSTEM_PATHS = ("/dev/", "/proc/", "/sys/")
PARAMETERS = ("profile", "seed", "output_dir")


def source(cell: dict) -> str:
    """A cell's text; the format allows a string or a list of lines."""
    text = cell.get("source", "")
    return text if isinstance(text, str) else "".join(text)


def check_stripped(cells: list[dict]) -> Iterator[str]:
    """Problems with outputs and execution counts that were committed."""
    for number, cell in enumerate(cells, 1):
        if cell.get("outputs"):
            yield f"cell {number} has outputs; strip them with `nbstripout --keep-id`"
        if cell.get("execution_count") is not None:
            yield f"cell {number} has an execution count; strip it with `nbstripout --keep-id`"
        if cell.get("attachments"):
            yield f"cell {number} carries an attachment; put the picture into book/_static and link it"


def check_ids(notebook: dict) -> Iterator[str]:
    """Problems with cell ids: links, reviews and the gradebook hold on to them."""
    version = (notebook.get("nbformat", 0), notebook.get("nbformat_minor", 0))
    if version < (4, 5):
        yield f"it is in notebook format {version[0]}.{version[1]}, which has no cell ids; save it as 4.5"
        return
    ids = [cell.get("id") for cell in notebook["cells"]]
    for number, name in enumerate(ids, 1):
        if not isinstance(name, str) or not CELL_ID.fullmatch(name):
            yield f"cell {number} has no valid id (1 to 64 letters, digits, - or _)"
    for name, count in Counter(ids).items():
        if name and count > 1:
            yield f"the cell id {name!r} is used {count} times; give each cell its own"


def check_parameters(cells: list[dict]) -> Iterator[str]:
    """Problems with the one cell through which `course run` sets profile, seed and output folder."""
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1 or tagged[0].get("cell_type") != "code":
        yield f"it has {len(tagged)} cells tagged `parameters` and needs exactly one code cell"
        return
    for name in PARAMETERS:
        if not re.search(rf"^{name}\s*(:.*)?=", source(tagged[0]), re.MULTILINE):
            yield f"its `parameters` cell does not set {name}"


def check_paths(cells: list[dict]) -> Iterator[str]:
    """Problems with absolute paths, which no other machine has."""
    for number, cell in enumerate(cells, 1):
        for match in ABSOLUTE_PATH.finditer(source(cell)):
            if not match["path"].startswith(SYSTEM_PATHS):
                yield f"cell {number} names the absolute path {match['path']!r}; make it relative"


def is_assignment(path: Path) -> bool:
    """Assignments are run by nbgrader, without parameters."""
    return "/autograder/source/" in path.resolve().as_posix()


def check_notebook(path: Path) -> list[str]:
    """All problems of one notebook, as sentences; empty when there are none."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = notebook["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"it cannot be read as a notebook ({type(error).__name__}: {error})"]
    problems = [*check_stripped(cells), *check_ids(notebook), *check_paths(cells)]
    if not is_assignment(path):
        problems += check_parameters(cells)
    return problems


def tracked_notebooks() -> list[Path]:
    """Every notebook in git's index, relative to the current folder."""
    listed = subprocess.run(["git", "ls-files", "-z", "*.ipynb"], stdout=subprocess.PIPE, text=True, check=True)
    return [Path(name) for name in listed.stdout.split("\0") if name]


def main(argv: list[str] | None = None) -> int:
    """Print every problem as `path: sentence`; 1 if there was any."""
    parser = argparse.ArgumentParser(prog="notebook_check", description=__doc__.split("\n\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: every notebook that git tracks")
    problems = 0
    for path in parser.parse_args(argv).notebooks or tracked_notebooks():
        for problem in check_notebook(path):
            print(f"{path}: {problem}", file=sys.stderr)
            problems += 1
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
