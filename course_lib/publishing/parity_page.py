"""The book's table of parity checks, made from what the tests measured (`tests/parity_log.py` writes it)."""

import json
import re
import subprocess
import sys
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


def ensure_rows(root: Path, kind: str = "parity") -> list[dict]:
    """The rows that tests have written. Where there are none yet, the fast tests are run first.

    The slow ones take a quarter of an hour. `make test` runs them, and then their rows are there too.

    Args:
        root: the clone.
        kind: "parity", or "libraries" for what the libraries really do.

    Returns:
        The rows.

    Raises:
        CourseError: one of the tests failed.
    """
    if not measured_rows(root, kind):
        mark = {"parity": "parity", "libraries": "library"}[kind]
        print(f"running the fast tests marked {mark!r} for the book's page (some minutes)", flush=True)
        command = [sys.executable, "-m", "pytest", "tests", "-m", f"{mark} and not slow", "-q", "-n", "2"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise CourseError(f"Tests marked {mark!r} failed:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    return measured_rows(root, kind)


def parity_page(rows: list[dict]) -> str:
    """The page: one table for each room, one line for each check."""
    rooms = [*TITLES, *sorted({row["room"] for row in rows} - TITLES.keys())]
    tables = "\n\n".join(_table(room, rows) for room in rooms if any(row["room"] == room for row in rows))
    newest = max((row["date"] for row in rows), default="")[:10]
    return f"""# Parity: our numbers against the libraries'

Every line is a test that ran: what was computed, the reference, the largest difference that was measured, and the
largest that the test lets pass, with the reason. *Relative* differences are divided by the largest value of the
reference; *differing* counts the places that are not equal. `make test` repeats them all; the newest is of {newest}.

{tables}
"""


def _table(room: str, rows: list[dict]) -> str:
    lines = [
        f"| {_cell(r['what'])} | {_cell(r['against'])} | {_number(r['measured'])} | {_number(r['tolerance'])} "
        f"| {r['unit']} | {_cell(r['why'])} |"
        for r in sorted(rows, key=lambda row: row["what"])
        if r["room"] == room
    ]
    head = ["| what | against | measured | allowed | unit | why this much |", "| --- | --- | ---: | ---: | --- | --- |"]
    return "\n".join([f"## {TITLES.get(room, room.capitalize())}", "", *head, *lines])


def _cell(text: str) -> str:
    return re.sub(r"([|_*`\[\]{}$<>])", r"\\\1", text)


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if value >= 100:
        return f"{value:,.0f}"
    if value < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3g}"
