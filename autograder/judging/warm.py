"""Processes with an assignment's imports done, forked for one submission after the other: PyTorch is imported once.

The process that is forked never runs a submission's code. Each fork is shut in again (`apart`), so that it reaches
neither that process nor anything that an earlier fork has left.
"""

import contextlib
import os
import select
import signal
import socket
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from autograder.judging.stage import INSIDE, Stage
from autograder.sandbox.limits import Limits
from autograder.sandbox.process import GOING, Sandbox, Watched, python
from autograder.sandbox.usage import alive, children

START = "import sys; sys.path[:0] = [{folder!r}]; import worker; worker.keep({folder!r}, {scratch}, {imports!r})"


class Warm:
    """The processes of an assignment, and the folders that they see; use it in a `with` block.

    Attributes:
        possible: Whether this system allows namespaces within the sandbox's; where not, each submission has a sandbox
            that is started for it.
    """

    def __init__(self, one_student: bool = False) -> None:
        """Prepare them.

        Args:
            one_student: Whether all that is judged is one student's. Only then is a process without the sandbox used
                again: whatever a submission leaves running there still has its pipes, and could answer for the next.
        """
        self.possible, self.one_student = True, one_student
        self.folder = tempfile.TemporaryDirectory(prefix="course-judge-")
        self.stages: dict[tuple, Stage] = {}
        self.keepers: dict[tuple, Keeper] = {}
        self.plain: dict[tuple, Sandbox] = {}

    def __enter__(self) -> "Warm":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stage(self, forbidden: Iterable[str], libraries: Iterable[str], course: Iterable[str]) -> Stage:
        """What a process sees, laid out when it is first asked for.

        Args:
            forbidden: As in `Stage`.
            libraries: As in `Stage`.
            course: As in `Stage`.

        Returns:
            The same stage for the same arguments.
        """
        key = frozenset(forbidden), tuple(libraries), tuple(course)
        if key not in self.stages:
            self.stages[key] = Stage(Path(self.folder.name) / str(len(self.stages)), *key)
        return self.stages[key]

    def fork(self, stage: Stage, limits: Limits, imports: str) -> "Fork":
        """A process for a submission; it is not waited for.

        Args:
            stage: What it sees.
            limits: What it may use.
            imports: What is imported before.

        Returns:
            The process, which may still be starting.
        """
        key = stage.folder, limits, imports
        keeper = self.keepers.get(key)
        if keeper is None or not keeper.idle():
            if keeper is not None:
                keeper.close()
            keeper = self.keepers[key] = Keeper(stage, limits, imports)
        return keeper.fork()

    def keep(self, process: Sandbox, stage: Stage, limits: Limits, imports: str) -> None:
        """Keep a process that runs without the sandbox for the next check of the same assignment. It has run no
        submission's code itself.

        Args:
            process: It waits for a part to begin.
            stage: What it sees.
            limits: What it may use.
            imports: What it has imported.
        """
        self.plain[stage.folder, limits, imports] = process

    def kept(self, stage: Stage, limits: Limits, imports: str) -> Sandbox | None:
        """The process that was kept, whose time begins anew; None where there is none, or where it has ended.

        Args:
            stage: As in `keep`.
            limits: As in `keep`.
            imports: As in `keep`.

        Returns:
            The process, or None.
        """
        process = self.plain.pop((stage.folder, limits, imports), None)
        if process is None:
            return None
        process.started = time.monotonic()
        if process.settled() or process.process.poll() is not None:
            process.close()
            return None
        return process

    def renew(self, stage: Stage) -> None:
        """End the processes that see `stage`, so that the next fork is one of a new process.

        Args:
            stage: Whose processes.
        """
        for key in [key for key in self.keepers if key[0] == stage.folder]:
            self.keepers.pop(key).close()

    def close(self) -> None:
        """End all of them, and remove their folders."""
        for keeper in self.keepers.values():
            keeper.close()
        for process in self.plain.values():
            process.close()
        self.keepers.clear()
        self.plain.clear()
        self.folder.cleanup()


class Keeper:
    """A process in the sandbox that has done some imports, and waits for being told to fork.

    Args:
        stage: What it sees.
        limits: What each of its forks may use.
        imports: Statements.
    """

    def __init__(self, stage: Stage, limits: Limits, imports: str) -> None:
        self.limits = limits
        self.control, theirs = socket.socketpair()
        program = python("-c", START.format(folder=INSIDE, scratch=limits.scratch, imports=imports))
        with theirs:
            self.sandbox = Sandbox(program, limits, stage.seen, control=theirs)
        self.last: Fork | None = None
        self.pid: int | None = None  # once it is known

    def idle(self) -> bool:
        """Whether it runs, and its last fork is gone."""
        return self.sandbox.process.poll() is None and (self.last is None or self.last.gone)

    def fork(self) -> "Fork":
        """A fork, which begins as soon as the imports are done."""
        self.last = Fork(self)
        return self.last

    def forks(self) -> list[int]:
        """The ids of its children: the last one is the newest."""
        first = children(self.sandbox.process.pid)  # bwrap's child, which waits for orphans
        keeper = children(first[0]) if first else []
        if not keeper:
            return []
        self.pid = keeper[0]
        return children(self.pid)

    def died(self) -> bool:
        """Whether it has ended by itself, or was killed by somebody else."""
        return self.pid is not None and not alive(self.pid)

    def close(self) -> None:
        """End it, and all that it has forked."""
        self.control.close()
        self.sandbox.close()


class Fork(Watched):
    """A submission's process, to which two pipes lead.

    Attributes:
        stdin: What it reads.
        stdout: What it writes.
        gone: Whether it is known to have ended, with all that it had started.
    """

    def __init__(self, keeper: Keeper) -> None:
        """Have it forked.

        Args:
            keeper: Of what.
        """
        super().__init__(keeper.limits)
        self.keeper, self.gone = keeper, False
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        self.stdin: IO[bytes] = os.fdopen(ours_in, "wb", buffering=0)
        self.stdout: IO[bytes] = os.fdopen(ours_out, "rb", buffering=0)
        with contextlib.suppress(OSError):  # it does not run any more, which the end of the pipe will tell
            socket.send_fds(keeper.control, [b"+"], [theirs_in, theirs_out])
        os.close(theirs_in)
        os.close(theirs_out)
        self.watch()

    def orphaned(self) -> bool:
        """Whether the keeper has died, whom no submission can reach, and this fork with it."""
        return self.keeper.died()

    def close(self) -> None:
        """End it, wait until it is gone, and close the pipes."""
        if self.ended.is_set():
            return
        with self.looking:  # a look that has begun could otherwise end the next fork
            self.ended.set()
        self.stdin.close()
        self._kill()
        self.gone = self._at_end()
        if not self.gone:  # it was not forked yet, or does not go
            self.keeper.close()
        self.stdout.close()

    def _at_end(self) -> bool:
        """Whether nobody writes to the pipe any more: what lived in its namespaces is gone then."""
        end = time.monotonic() + (GOING if self.keeper.forks() else 0)
        while select.select([self.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
            if not os.read(self.stdout.fileno(), 65536):
                return True
        return False

    def top(self) -> int | None:
        if self.keeper.sandbox.process.poll() is not None:
            return None
        return (self.keeper.forks() or [0])[-1]

    def _kill(self) -> None:
        """Kill the first process of its namespaces, and with it all others. The one that waits for it ends then."""
        for waiting in self.keeper.forks()[-1:]:
            for pid in children(waiting) or [waiting]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
