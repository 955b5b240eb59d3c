"""Parity checks that write down what they measured, for the book's page on it (`course_lib.publishing.parity_page`)."""

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "build" / "parity"


@dataclass(frozen=True)
class Row:
    """One line of the table: what was compared with what, how far apart, how far it may be, and why so far."""

    room: str
    what: str
    against: str
    measured: float
    tolerance: float
    unit: str
    why: str
    test: str
    date: str


class ParityLog:
    """Given to a test as the fixture `parity`: compare, write a row, and fail where the difference is too large."""

    def __init__(self, test: str, room: str):
        self.test, self.room = test, room

    def close(self, what: str, against: str, ours, theirs, tolerance: float, why: str) -> None:
        """The largest difference, relative to the largest of their values, is at most `tolerance`."""
        ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
        assert ours.shape == theirs.shape, f"{what}: {ours.shape} against {theirs.shape}"
        difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        self.within(what, against, difference, tolerance, why, unit="relative")

    def exact(self, what: str, against: str, differing: int) -> None:
        """Nothing differs: `differing` counts the places that do."""
        self.within(what, against, differing, 0, "integers: nothing to round", unit="differing")

    def within(self, what: str, against: str, measured: float, tolerance: float, why: str, unit: str) -> None:
        """`measured` is at most `tolerance` (and a number)."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        row = Row(self.room, what, against, float(measured), tolerance, unit, why, self.test, now)
        if row.measured <= tolerance:
            self._write(row)
        assert row.measured <= tolerance, f"{what} against {against}: {measured:.3g} > {tolerance:.3g} ({unit})"

    def _write(self, row: Row) -> None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = FOLDER / (re.sub(r"\W+", "-", f"{row.test}-{row.what}")[-180:] + ".json")
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(dataclasses.asdict(row)))
        os.replace(temporary, path)
