"""A process in the sandbox: started, watched, and ended with everything that it has started."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from autograder.sandbox import bubblewrap, calls
from autograder.sandbox.limits import Limits
from autograder.sandbox.usage import alive, children, exceeded

OFTEN = 0.02  # seconds between two looks of the watchdog
GOING = 2.0  # seconds that a killed process tree may take to be gone


@dataclass(frozen=True)
class Result:
    """What became of a program: its output as far as it was kept, its exit status, and the limit that it exceeded."""

    stdout: bytes
    stderr: bytes
    status: int
    stopped: str


class Watched:
    """A process tree that a watchdog ends when it exceeds a limit; use it in a `with` block, after which it is gone.

    `stopped` says which limit ended it, "" where none did.
    """

    def __init__(self, limits: Limits) -> None:
        """Prepare the watchdog, which `watch` starts.

        Args:
            limits: What the tree may use.
        """
        self.limits = limits
        self.stopped, self.started = "", time.monotonic()
        self.ended = threading.Event()
        self.looking = threading.Lock()  # held by the watchdog while it looks

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def watch(self) -> None:
        """Start the watchdog."""
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self, why: str) -> None:
        """End it and everything that it has started.

        Args:
            why: What to remember as the reason; an earlier one is kept.
        """
        self.stopped = self.stopped or why
        self._kill()

    def settled(self) -> str:
        """Why it was stopped, "" where it was not: a look that the watchdog has begun is waited for."""
        with self.looking:
            return self.stopped

    def close(self) -> None:
        """End it, and wait until it is gone."""
        raise NotImplementedError

    def top(self) -> int | None:
        """The id of the process below which everything counts: 0 where it is not there yet, None where it has ended."""
        raise NotImplementedError

    def exceeds(self, top: int) -> str:
        """Which limit the process tree below `top` exceeds, in words; "" where it exceeds none."""
        return exceeded(top, self.limits)

    def _kill(self) -> None:
        raise NotImplementedError

    def _watch(self) -> None:
        """The watchdog."""
        while not self.ended.wait(OFTEN) and (top := self.top()) is not None:
            with self.looking:
                if self.ended.is_set():  # what is there now is the next one's
                    return
                why = self.exceeds(top) if top else ""
                if time.monotonic() - self.started > self.limits.wall:
                    why = f"it took over {self.limits.wall:g} seconds"
                if why:
                    self.stop(why)
                    return


class Sandbox(Watched):
    """A running program in a sandbox.

    Args:
        program: What to run, with paths as they are inside the sandbox.
        limits: What it may use.
        seen: Files and folders that it may read, and where it has them.
        sandbox: False to run it with our own rights, where only the watchdog limits it.
        errors: What becomes of its standard error, as in subprocess.Popen.
        control: A program that is trusted has this as its standard input, and no watchdog: its forks have theirs.
        handed: File descriptors that it gets from us.

    Raises:
        CourseError: There is no bubblewrap.
    """

    def __init__(
        self,
        program: list[str],
        limits: Limits,
        seen: dict[Path, str] | None = None,
        *,
        sandbox: bool = True,
        errors: int = subprocess.DEVNULL,
        control: socket.socket | None = None,
        handed: tuple[int, ...] = (),
    ) -> None:
        super().__init__(limits)
        self.sandboxed = sandbox
        with _refusals(sandbox and control is None) as refused:
            line = bubblewrap.command(program, limits, seen or {}, *refused) if sandbox else program
            self.process = self._started(line, control, errors, [*refused, *handed])
        self.first: list[int] = []  # the sandbox's first process, once it is known
        if control is None:
            self.watch()

    def _started(
        self, line: list[str], control: socket.socket | None, errors: int, handed: list[int]
    ) -> subprocess.Popen:
        return subprocess.Popen(
            line,
            stdin=control.fileno() if control else subprocess.PIPE,
            stdout=subprocess.DEVNULL if control else subprocess.PIPE,
            stderr=errors,
            # the sandbox's first process is bwrap itself, whose environment can be read inside
            env=bubblewrap.ENVIRONMENT if self.sandboxed else _plain_environment(),
            start_new_session=True,
            pass_fds=handed,
        )

    @property
    def stdin(self) -> IO[bytes]:
        """Its standard input."""
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """Its standard output."""
        assert self.process.stdout is not None
        return self.process.stdout

    def close(self) -> None:
        """End it, wait until it is gone, and close the pipes."""
        self.ended.set()
        self.first = self.first or children(self.process.pid)
        self._kill()
        self.process.wait()
        end = time.monotonic() + GOING
        while any(map(alive, self.first)) and time.monotonic() < end:
            time.sleep(0.002)  # bwrap itself ends as soon as its program does, a moment before the others are killed
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # what was not written yet has no reader any more
                    pipe.close()

    def top(self) -> int | None:
        if self.process.poll() is not None:
            return None
        self.first = self.first or children(self.process.pid)
        return self.process.pid

    def _kill(self) -> None:
        """Kill the first process of the sandbox, and with it all others: bwrap then waits for them and ends, and no
        dead process waits for somebody to collect it. Without the sandbox it is the session that we know, which a
        process may have left."""
        if self.sandboxed and self._first_is_killed():
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _first_is_killed(self) -> bool:
        """Whether bwrap had a child, and has ended since."""
        if self.process.poll() is not None:
            return True
        try:
            for pid in children(self.process.pid):
                os.kill(pid, signal.SIGKILL)
            self.process.wait(GOING)
        except (ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
            return False
        return True


@contextlib.contextmanager
def _refusals(wanted: bool) -> Iterator[list[int]]:
    """A file descriptor with the filter of calls, where one is wanted and this machine has one."""
    program = calls.refusals() if wanted else b""
    if not program:
        yield []
        return
    reading, writing = os.pipe()
    try:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(program)
        yield [reading]
    finally:
        os.close(reading)


def run(program: list[str], limits: Limits, seen: dict[Path, str] | None = None, *, sandbox: bool = True) -> Result:
    """Run a program to its end, and keep the beginning of what it prints.

    Args:
        program: As in `Sandbox`.
        limits: As in `Sandbox`.
        seen: As in `Sandbox`.
        sandbox: As in `Sandbox`.

    Returns:
        What became of it. A program that prints more than `limits.output` is ended.
    """
    with Sandbox(program, limits, seen, sandbox=sandbox, errors=subprocess.PIPE) as running:
        running.stdin.close()
        kept: dict[str, bytes] = {}
        readers = [
            threading.Thread(target=_read, args=(running, name, getattr(running.process, name), kept))
            for name in ("stdout", "stderr")
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        status = running.process.wait()
    return Result(kept["stdout"], kept["stderr"], status, running.stopped)


def _read(running: Sandbox, name: str, pipe: Any, kept: dict[str, bytes]) -> None:
    """Read one of its outputs to its end, or until there is too much of it."""
    most, found = running.limits.output, bytearray()
    while piece := pipe.read1(65536):
        found += piece
        if len(found) > most:
            running.stop(f"it printed over {most} bytes")
            break
    kept[name] = bytes(found[:most])


def _plain_environment() -> dict[str, str]:
    """Ours, without what would tell a submission that it is graded."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NBGRADER", "COURSE_"))}
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PATH": os.environ.get("PATH", "")}


def python(*arguments: str) -> list[str]:
    """This Python, alone: without a virtual environment, the user's packages, and variables of the environment.

    Args:
        arguments: What follows the interpreter's own options.
    """
    return [bubblewrap.interpreter(), "-I", "-S", "-B", *arguments]
