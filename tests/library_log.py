"""What the libraries really do, for the book's page on it (`course_lib.publishing.libraries_page`).

A test of a behaviour carries `pytest.mark.library`, which states the behaviour in words. When the test passes, its
words become a line of the page; when it fails, the line goes, and the failure says what no longer holds.
"""

import json
import os
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "build" / "libraries"
FIELDS = {"package", "happens", "expected", "instead", "chapter"}
SECTION = "a library's behaviour has changed"


def check(item) -> None:
    """Refuse a mark with a field too many or too few, at collection."""
    for mark in item.iter_markers("library"):
        if mark.args or set(mark.kwargs) != FIELDS:
            raise ValueError(f"{item.nodeid}: pytest.mark.library takes {', '.join(sorted(FIELDS))}, by name")


def note(item, report) -> None:
    """After a test: write its rows if it passed, remove them if it failed and say what no longer holds."""
    if report.when != "call" and not report.failed:
        return
    for place, mark in enumerate(item.iter_markers("library")):
        path = FOLDER / (re.sub(r"\W+", "-", f"{item.nodeid.split('[')[0]}-{place}")[-180:] + ".json")
        if report.passed:
            _write(path, mark.kwargs | {"test": item.nodeid.split("[")[0], "version": found_version(mark.kwargs)})
        elif report.failed:
            path.unlink(missing_ok=True)
            text = f"{mark.kwargs['package']} {found_version(mark.kwargs)}: {mark.kwargs['happens']}"
            report.sections.append((SECTION, text))


def found_version(fields: dict) -> str:
    """The installed version; Slurm is no Python package and says its own."""
    if fields["package"] == "Slurm":
        import subprocess

        return subprocess.run(["sinfo", "--version"], capture_output=True, text=True).stdout.split()[-1]
    name = "torch" if fields["package"] == "torch.distributed" else fields["package"]
    return version(name.lower().replace(" ", "-")).split("+")[0]


def changed(terminal) -> list[str]:
    """The behaviours that failing tests of this run were about."""
    reports = terminal.stats.get("failed", []) + terminal.stats.get("error", [])
    return sorted({text for report in reports for title, text in report.sections if title == SECTION})


def _write(path: Path, row: dict) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(row | {"date": datetime.now(UTC).isoformat(timespec="seconds")}))
    os.replace(temporary, path)
