"""What came of a chapter: its `Result`, the content hash by which an unchanged chapter is recognised, and the table
that `course run` prints at its end."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import course_lib
from course_lib.execution.environment import git_commit, hardware, versions
from course_lib.execution.notebooks.project import Chapter


@dataclass
class Result:
    """What came of one chapter.

    Attributes:
        chapter: the chapter's id, `03_lora`.
        status: "executed", "unchanged", "failed", or "drifted": it ran, and its numbers are not the expected ones.
        seconds: wall time from the start of the worker to its end.
        memory: the kernel's peak resident memory in bytes.
        threads: how many threads the kernel was allowed to use.
        message: why the chapter failed or how it drifted; empty otherwise.
        recorded: what the notebook gave to its `Recorder`.
        cells: for each code cell that ended {"cell": its number from 1, text cells included, "line": its first line,
            "seconds": wall time, "cpu_seconds": processor time of the kernel and its finished children}.
    """

    chapter: str
    status: str
    seconds: float = 0.0
    memory: int = 0
    threads: int = 0
    message: str = ""
    recorded: dict = field(default_factory=dict)
    cells: list[dict] = field(default_factory=list)

    @property
    def bad(self) -> bool:
        """Whether somebody has to look at it."""
        return self.status in ("failed", "drifted")


def metrics(chapter: Chapter, result: Result, profile: str, seed: int, content: str) -> dict:
    """The content of metrics.json.

    Args:
        chapter: the chapter that was executed.
        result: what came of it.
        profile: the profile's name, without a path.
        seed: the seed that the chapter was given.
        content: its `content_hash`.

    Returns:
        The file's content.
    """
    return {
        "chapter": chapter.id,
        "profile": profile,
        "seed": seed,
        "recorded": result.recorded,
        "duration_s": round(result.seconds, 1),
        "cpu_s": round(sum(cell["cpu_seconds"] for cell in result.cells), 1),
        "threads": result.threads,
        "peak_memory_bytes": result.memory,
        "cells": result.cells,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(chapter.path.parent),
        "versions": versions(),
        "hardware": hardware(),
        "content_hash": content,
    }


def unchanged_result(chapter: Chapter, folder: Path, content: str) -> Result | None:
    """The last result of a chapter, if it is complete and nothing that decides it has changed.

    Args:
        chapter: the chapter.
        folder: where its last result would be.
        content: the `content_hash` that the chapter has now.

    Returns:
        The result, or None where the chapter has to be executed.
    """
    before = read_json(folder / "metrics.json") or {}
    if before.get("content_hash") != content or not (folder / "notebook.ipynb").is_file():
        return None
    return Result(
        chapter.id,
        "unchanged",
        seconds=before["duration_s"],
        memory=before["peak_memory_bytes"],
        recorded=before["recorded"],
    )


def content_hash(chapter: Chapter, sizes: dict, parameters: dict) -> str:
    """SHA-256 of everything that decides a chapter's outputs.

    The source of course_lib and the versions of the packages count too.

    Args:
        chapter: its cells count.
        sizes: the whole content of the profile.
        parameters: what `course run` injects after the `parameters` cell.

    Returns:
        The hash in hexadecimal digits.
    """
    digest = hashlib.sha256()
    cells = [[c["cell_type"], "".join(c["source"]), c["metadata"]] for c in chapter.read()["cells"]]
    # Dates and times, which TOML has and JSON has not, count by their text.
    digest.update(json.dumps([cells, parameters, versions(), sizes], sort_keys=True, default=str).encode())
    package = Path(course_lib.__file__).parent
    for path in sorted(package.rglob("*")):
        name = path.relative_to(package)
        if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in name.parts):
            digest.update(str(name).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def summary(results: list[Result]) -> str:
    """A table with one row for each chapter: status, time, peak memory of the kernel, the last numbers it recorded."""
    rows = [("chapter", "status", "time", "memory", "recorded")]
    for r in results:
        numbers = [f"{k}={v:.4g}" for k, v in r.recorded.items() if isinstance(v, int | float)]
        time, memory = f"{r.seconds:.0f} s", f"{r.memory / 1e9:.2f} GB"
        rows.append((r.chapter, r.status, time, memory, " ".join(numbers[-3:])))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]  # the last column has no width
        lines.append("  ".join([*cells, row[4]]).rstrip())
    return "\n".join(lines)


def read_json(path: Path) -> dict | None:
    """The content of a JSON file; None if the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
