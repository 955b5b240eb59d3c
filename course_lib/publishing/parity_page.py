"""The book's table of parity checks, made from what the tests measured (`tests/parity_log.py` writes it)."""

import ast
import json
import re
import subprocess
import sys
from html import escape
from pathlib import Path

from course_lib.errors import CourseError

TITLES = {
    "scratch": "NumPy edition",
    "data": "Data",
    "models": "Models",
    "training": "Training",
    "adapters": "Adapters",
    "inference": "Inference",
    "alignment": "Alignment of whole runs",
    "execution": "Commands",
}
UNITS = {"differing": "places"}


def measured_rows(root: Path, kind: str = "parity") -> list[dict]:
    """Read what the last run of each test wrote. Rows of tests that no longer exist are left out.

    Args:
        root: the clone.
        kind: the folder of the rows below build/, "parity" or "libraries".

    Returns:
        The rows in the order of their files' names.
    """
    rows = [json.loads(path.read_text()) for path in sorted((root / "build" / kind).glob("*.json"))]
    return [row for row in rows if _exists(root, row["test"])]


def _exists(root: Path, test: str) -> bool:
    path, _, name = test.partition("::")
    file = root / path
    return file.is_file() and f"def {re.split(r'::', name)[-1].split('[')[0]}(" in file.read_text()


MARKED = {  # how a test file shows that its tests write rows: by the fixture, or by the mark
    "parity": ("parity", re.compile(r"def test_\w+\([^)]*\bparity\b")),
    "libraries": ("library", re.compile(r"\bmark\.library\(")),
}
NOTHING_TO_RUN = 5  # pytest's exit status where all tests of the files are slow


def ensure_rows(root: Path, kind: str = "parity") -> list[dict]:
    """The rows that tests have written. The fast tests of files that have none yet are run first.

    The slow ones take a quarter of an hour. `make test` runs them, and then their rows are there too.

    Args:
        root: the clone.
        kind: "parity", or "libraries" for what the libraries really do.

    Returns:
        The rows.

    Raises:
        CourseError: one of the tests failed.
    """
    tried = root / "build" / kind / ".tried"  # files whose fast tests were run: some have slow ones alone
    done_before = tried.read_text().split() if tried.is_file() else []
    if files := sorted(_files_without_rows(root, kind).difference(done_before)):
        mark = MARKED[kind][0]
        print(f"running the fast tests marked {mark!r} for the book's page (some minutes)", flush=True)
        command = [sys.executable, "-m", "pytest", *files, "-m", f"{mark} and not slow", "-q", "-n", "2"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode not in (0, NOTHING_TO_RUN):
            raise CourseError(f"Tests marked {mark!r} failed:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
        tried.parent.mkdir(parents=True, exist_ok=True)
        tried.write_text("\n".join([*done_before, *files]) + "\n")
    return measured_rows(root, kind)


def _files_without_rows(root: Path, kind: str) -> set[str]:
    """The test files that should have left rows and have not: an earlier run may have been of other files."""
    shown = MARKED[kind][1]
    files = {path.relative_to(root).as_posix(): path for path in (root / "tests").rglob("test_*.py")}
    writing = {name for name, path in files.items() if shown.search(path.read_text(encoding="utf-8"))}
    return writing - {row["test"].partition("::")[0] for row in measured_rows(root, kind)}


def parity_page(rows: list[dict]) -> str:
    """The page: one table for each room, one line for each check."""
    rooms = [*TITLES, *sorted({row["room"] for row in rows} - TITLES.keys())]
    tables = "\n\n".join(_table(room, rows) for room in rooms if any(row["room"] == room for row in rows))
    newest = max((row["date"] for row in rows), default="")[:10]
    return f"""# Parity: our numbers against the libraries'

Every line is a test that ran. It says what was computed and with what it was compared; the largest difference that was
measured; the largest that the test allows, and why it allows that much.

- *Relative*: the difference is divided by the largest value of the reference.
- *Places*: how many places are not equal.

`make test` repeats all these comparisons. The newest comparison is of {newest}.

{tables}
"""


COLUMNS = ("what", "compared with", "measured", "allowed", "why this much")


def _table(room: str, rows: list[dict]) -> str:
    """A room's checks as HTML: on a phone each line becomes a card with the names of the columns beside its values."""
    lines = [_line(row) for row in sorted(rows, key=lambda row: row["what"]) if row["room"] == room]
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    title = TITLES.get(room, room.capitalize())
    body = "\n".join(lines)
    table = f'<table class="parity"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>'
    return f"## {title}\n\n```{{raw}} html\n{table}\n```"


def _line(row: dict) -> str:
    unit = UNITS.get(row["unit"], row["unit"])
    cells = {
        "compared with": escape(_readable(row["against"])),
        "measured": _number(row["measured"]),
        "allowed": f"{_number(row['tolerance'])} {unit}".rstrip(),
        "why this much": escape(row["why"]),
    }
    rest = "".join(f'<td data-label="{name}">{text}</td>' for name, text in cells.items())
    return f'<tr><th scope="row">{escape(_readable(row["what"]))}</th>{rest}</tr>'


def _readable(text: str) -> str:
    """The settings that a test puts into its name as a dictionary, as words: `{'eps': 1e-06}` becomes `eps 1e-06`."""

    def words(found: re.Match[str]) -> str:
        try:
            settings = ast.literal_eval(found[0])
        except (SyntaxError, ValueError):  # braces that are not a dictionary
            return found[0]
        if not isinstance(settings, dict):
            return found[0]
        return ", ".join(f"{key} {value}" for key, value in settings.items()) or "as it is"

    return re.sub(r"\{[^{}]*\}", words, text)


def _number(value: float) -> str:
    """Two digits, and a power of ten where it is small: HTML."""
    if value == 0:
        return "0"
    if value >= 100:
        return f"{value:,.0f}"
    if value < 1e-3:
        digits, power = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')} · 10<sup>{int(power)}</sup>".replace("<sup>-", "<sup>−")
    return f"{value:.3g}"
