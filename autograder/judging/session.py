"""The judge's end of the line to a submission's process: it sends requests, waits for data, and ends what is slow."""

import os
import select
import struct
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from autograder.judging import wire
from autograder.judging.stage import INSIDE, Stage
from autograder.judging.warm import Fork, Warm
from autograder.sandbox.bubblewrap import FORBIDDEN
from autograder.sandbox.limits import MIB, Limits
from autograder.sandbox.process import Sandbox, python
from course_lib.errors import CourseError

START = "import sys; sys.path[:0] = [{folder!r}]; import worker; worker.main({folder!r}, {alone!r}, {imports!r})"
NOT_STARTED = f"The process for a submission did not start ({{why}}), so nothing was graded. {FORBIDDEN}"
MOST = 4 * MIB  # bytes of an answer, which may take fifty times as much memory once it is read
STARTS = 3  # attempts; none of the submission's code has run yet
STARTING = 60.0  # seconds that Python and NumPy may take to start
PATIENCE = 5.0  # seconds that a part's process may take to end


class Ended(Exception):
    """The submission's process is gone, or was ended; the message says why."""


class Clock:
    """How long a submission may take, in seconds of waiting for it.

    Attributes:
        whole: What all of it may take.
        part: What one cell, or the checks of one part, may take.
        left: What is left of the whole.
        deadline: What is left for the cell or the checks that are run now.

    Args:
        whole: Seconds for the whole submission.
        part: Seconds for one cell, or for the checks of one part.
    """

    def __init__(self, whole: float, part: float) -> None:
        self.whole, self.part, self.left, self.deadline = whole, part, whole, part

    def begin(self) -> None:
        """A new cell, or the checks of a part."""
        self.deadline = min(self.part, self.left)

    def spend(self, seconds: float) -> None:
        """Time has passed."""
        self.left -= seconds
        self.deadline -= seconds


class Session:
    """One process, started when it is first needed and again after it was ended; use it in a `with` block.

    Args:
        stage: What the process sees.
        limits: What it may use.
        clock: What the submission has left; time that is spent on waiting for the process is taken from it.
        warm: Where the process is forked, which has done the imports.
        sandbox: False to run it with our own rights.
        imports: Statements of the assignment's own that the process runs before any part.
    """

    def __init__(
        self, stage: Stage, limits: Limits, clock: Clock, warm: Warm, *, sandbox: bool = True, imports: str = ""
    ) -> None:
        self.stage, self.limits, self.clock, self.warm, self.sandbox = stage, limits, clock, warm, sandbox
        self.imports = imports
        self.running: Sandbox | Fork | None = None
        self.ready = False  # whether the process has said that it is
        self.cell = ""  # the cell that began last
        self.called: tuple | None = None  # the last call: name, arguments, and named ones
        self.late = False  # whether it was too slow
        self.ended = ""  # why the current part has no process any more
        self.blameless = False  # whether that was the end of the process that was forked, which nobody can reach

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        again = self.ready and not self.sandbox and self.warm.one_student
        if again and isinstance(self.running, Sandbox) and not self.running.settled():
            self.warm.keep(self.running, self.stage, self.limits, self.imports)
        else:
            self.close()

    def begin(self, cells: list[tuple[str, str]]) -> dict[str, dict]:
        """Run a part's cells in a clean process.

        Args:
            cells: Their names and sources, in order.

        Returns:
            What the cells raised that failed, by name; see `worker.described`.

        Raises:
            Ended: The process ended in one of them (`cell`), or took too long for it.
        """
        if self.running is not None and self.running.settled():
            self.close()  # stopped for what an earlier part used: this one must not pay for it
        used = self.ready
        try:
            return self._run(cells)
        except Ended:
            if not self.blameless and (not used or self.cell or self.late):
                raise
        return self._run(cells)  # an earlier part had ended it, and only now does that show; or it was nobody's fault

    def _run(self, cells: list[tuple[str, str]]) -> dict[str, dict]:
        """Run a part's cells in the process that there is, or else in a new one."""
        self.cell, self.ended, self.late, self.blameless = "", "", False, False
        self.launch()
        if not self.ready:
            self._await()
        self._send({"do": "part", "cells": cells})
        for _ in range(len(cells) + 1):
            self.clock.begin()
            said = self._receive()
            if isinstance(said.get("failed"), dict):
                self.clock.begin()
                return said["failed"]
            self.cell = str(said.get("cell"))
        raise self._gone("its answer was no answer")

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request to the part's process, and wait for its answer.

        Args:
            request: See `worker`.

        Raises:
            Ended: The process ended before it answered, or took too long.
        """
        if self.ended or self.running is None:
            raise Ended(self.ended or "its process is gone")
        self._send(request)
        return self._receive()

    def end(self) -> None:
        """The part is over."""
        if not self.ready or self.ended:
            return
        self.clock.deadline = PATIENCE
        try:
            self._send({"do": "end"})
            if "ended" not in self._receive(decide=False):
                raise self._gone("its answer was no answer")
        except Ended:
            pass

    def close(self) -> None:
        """End the process, and all that it has started."""
        if self.running is not None:
            self.running.close()
            self.running, self.ready = None, False

    def launch(self) -> None:
        """Start the process where there is none, and do not wait for it."""
        if self.running is not None:
            return
        if self.sandbox and self.warm.possible:
            self.running = self.warm.fork(self.stage, self.limits, self.imports)
        elif not self.sandbox and (kept := self.warm.kept(self.stage, self.limits, self.imports)):
            self.running, self.ready, self.ended, self.late = kept, True, "", False
        else:
            folder = INSIDE if self.sandbox else str(self.stage.folder)
            program = python("-c", START.format(folder=folder, alone=self.sandbox, imports=self.imports))
            self.running = Sandbox(program, self.limits, self.stage.seen, sandbox=self.sandbox)
        os.set_blocking(self.running.stdin.fileno(), False)

    def _await(self) -> None:
        """Wait until the process is ready."""
        # a slow disk is not the submission's fault, of whose code nothing has run yet
        left = self.clock.left
        why: object = "this system allows no namespaces"
        for _ in range(STARTS):
            self.clock.deadline = STARTING
            self.launch()
            try:
                if "refused" not in self._receive():
                    break
                self.warm.possible = False  # no namespaces within those of the sandbox: it needs one of its own
                self.close()
            except Ended as error:  # what it is forked from may have just died
                why = error
                self.warm.renew(self.stage)
        else:
            raise CourseError(NOT_STARTED.format(why=why))
        self.clock.left, self.ready, self.ended, self.late = left, True, "", False
        self.clock.begin()

    def _send(self, request: dict[str, Any]) -> None:
        """Write a request, also to a process that does not read."""
        assert self.running is not None
        data = wire.dump(request, _stand_in)
        left = memoryview(struct.pack(">Q", len(data)) + data)
        pipe = self.running.stdin.fileno()
        while left:
            before = time.monotonic()
            ready = select.select([], [pipe], [], max(0.0, self.clock.deadline))[1]
            self.clock.spend(time.monotonic() - before)
            if not ready:
                raise self._gone(self._too_long())
            try:
                left = left[os.write(pipe, left) :]
            except OSError as error:
                raise self._gone("it ended its process") from error

    def _receive(self, decide: bool = True) -> dict[str, Any]:
        """An answer, which is a dictionary with texts as keys; whatever else comes is the end of the process.

        Args:
            decide: Whether the end of the part's process is an error.
        """
        frame = self._frame()
        before = time.monotonic()
        try:
            said = wire.load(frame, Reference)
        except wire.WireError as error:
            raise self._gone(f"its answer was {error}") from error
        self.clock.spend(time.monotonic() - before)
        if not isinstance(said, dict) or not all(isinstance(key, str) for key in said):
            raise self._gone("its answer was no answer")
        if decide and "ended" in said:
            self.ended = _status(said["ended"])
            raise Ended(self.ended)
        return said

    def _frame(self) -> bytes:
        head = struct.unpack(">Q", self._read(wire.LENGTH))[0]
        if head > MOST:
            raise self._gone(f"its answer was larger than {MOST // MIB} MiB")
        return self._read(head)

    def _read(self, size: int) -> bytes:
        """So many bytes, before the clock has run out."""
        assert self.running is not None
        found, pipe = bytearray(), self.running.stdout.fileno()
        while len(found) < size:
            before = time.monotonic()
            ready = select.select([pipe], [], [], max(0.0, self.clock.deadline))[0]
            self.clock.spend(time.monotonic() - before)
            if not ready:
                raise self._gone(self._too_long())
            piece = os.read(pipe, min(size - len(found), MIB))
            if not piece:
                raise self._gone(self.running.stopped or "it ended its process")
            found += piece
        return bytes(found)

    def _too_long(self) -> str:
        self.late = True
        if self.clock.left <= 0:
            return f"the submission as a whole took over {self.clock.whole:g} seconds and was stopped"
        return f"it took over {self.clock.part:g} seconds and was stopped: is there an endless loop?"

    def _gone(self, why: str) -> Ended:
        """What to raise where the process is of no use any more: it is ended, and the next part has a new one."""
        assert self.running is not None
        self.ended = self.running.stopped or why
        self.blameless = isinstance(self.running, Fork) and not self.late and self.running.orphaned()
        self.close()
        return Ended(self.ended)


@dataclass(frozen=True)
class Reference:
    """An object that stayed in the submission's process: its number there, and its type's name."""

    number: int
    kind: str


def _stand_in(value: Any) -> Any:
    """The number of what a stand-in stands for; a check that sends anything else is not a judged one."""
    reference = getattr(type(value), "reference_of", None)
    if reference is None:
        raise NotData(f"a check sends a {type(value).__name__} to an answer, which is not plain data")
    number = reference(value)
    return {"r": [number, ""]}


class NotData(BaseException):
    """A mistake of the assignment, which must not pass for one of the submission."""


def _status(code: Any) -> str:
    """How a process ended, in words."""
    if not isinstance(code, int):
        return "it ended its process"
    if code == 0:
        return "it ended its process (a call of os._exit or of exit)"
    return f"its process ended with status {code} (a crash in compiled code, or a call of os._exit)"


def shortened(value: Any, most: int = 200) -> str:
    """A value on one line of a moderate length.

    Args:
        value: Plain data.
        most: Characters.

    Returns:
        The line.
    """
    text = " ".join(repr(value).split())
    if len(text) > most and isinstance(value, np.ndarray) and value.ndim:
        return f"array({text[6 : most // 3]} …, shape={value.shape})"
    return text if len(text) <= most else f"{text[: most - 20]} … ({len(text)} characters)"
