"""A notebook's kernel in the sandbox. Without a network, it is reached through sockets that are files.

The sockets are bound out here and handed over as descriptors: the sandbox has no folder that it could fill.
"""

import json
import os
import signal
import socket
import subprocess
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from nbclient.exceptions import DeadKernelError

from autograder.sandbox.bubblewrap import SCRATCH
from autograder.sandbox.limits import MIB, Limits
from autograder.sandbox.process import GOING, Sandbox, python
from autograder.sandbox.usage import children, own_memory, tree
from course_lib.execution.notebooks.kernel import ThisInterpreter

INSIDE = "/kernel"  # where the sandbox has what the kernel needs
COURSE, FILES, START = f"{INSIDE}/course", f"{INSIDE}/files", f"{INSIDE}/start_kernel.py"
WORK = f"{SCRATCH}/work"  # beside what libraries write into the home, which is SCRATCH
KEPT = 2000  # bytes of the errors of a process that does not start
WAITING = 8  # messages that may wait for us on each line
SENDING = 20  # seconds that a message of ours may wait for the kernel to take it
GROWTH = 512 * MIB  # what our own memory may grow by while we read what a kernel sends


class _KernelSandbox(Sandbox):
    """The kernel's process, which also ends where reading its messages fills our own memory: ZeroMQ limits the size of
    each piece of a message, and not how many pieces there are."""

    def __init__(self, program: list[str], limits: Limits, *arguments: Any, **options: Any) -> None:
        self.before = own_memory()  # the watchdog starts below
        super().__init__(program, limits, *arguments, **options)

    def exceeds(self, top: int) -> str:
        most = max(GROWTH, 32 * self.limits.output)
        if own_memory() - self.before > most:
            return f"what it sent took over {most // MIB} MiB to read"
        return super().exceeds(top)


class Client(AsyncKernelClient):
    """Our end of the lines to the kernel. A kernel can cut a line: ZeroMQ then waits for ever where it sends."""

    def start_channels(self, *args: bool, **options: bool) -> None:
        """Without the heartbeat, a thread that no one could end while it sends. We see whether the process lives.

        Args:
            args: jupyter_client's own, each for a channel.
            options: The same by name.
        """
        super().start_channels(*args, **{**options, "hb": False})

    def execute(self, *args: Any, **options: Any) -> str:
        """Send a cell to the kernel.

        Args:
            args: jupyter_client's own.
            options: The same by name.

        Returns:
            The message's id.

        Raises:
            DeadKernelError: The kernel takes no messages any more; it is ended.
        """
        try:
            return super().execute(*args, **options)
        except zmq.Again as error:
            assert self.parent is not None
            self.parent.stop("it cut the line to the grader")
            raise DeadKernelError("the kernel takes no messages") from error


class SandboxedKernel(ThisInterpreter):
    """Starts the kernel in the sandbox, with a copy of the files in its working folder; to be closed at the end.

    Args:
        limits: What it may use. No message of more than twice `output` bytes is taken from it.
        seen: Files and folders that it may read, and where it has them.
        packages: Which of these folders hold installed packages.
        options: jupyter_client's own.
    """

    def __init__(self, limits: Limits, seen: dict[Path, str], packages: list[str], **options: Any) -> None:
        super().__init__(client_factory=Client, **options)
        self.stack = ExitStack()
        folder = self.stack.enter_context(self.sockets)
        bound(self.context, limits)
        self.limits, self.seen, self.packages = limits, seen, packages
        self.said = bytearray()  # the beginning of what the process itself prints as errors
        self.readers: list[threading.Thread] = []
        self.kernel_id = Path(folder).name
        self.provisioner = self.process = Provisioner(
            kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self
        )

    def start_in(self, folder: str) -> Sandbox:
        """Start the process.

        Args:
            folder: The files that it gets a copy of.
        """
        with ExitStack() as sockets:
            handed = {}
            for port in self.ports:
                path = f"{self.ip}-{port}"
                listening = sockets.enter_context(socket.socket(socket.AF_UNIX))
                listening.bind(path)
                listening.listen()
                listening.setblocking(False)
                handed[f"ipc://{path}"] = listening.fileno()
            connection = f"{INSIDE}/connection.json"
            told = {
                "packages": self.packages,
                "course": COURSE,
                "files": FILES,
                "work": WORK,
                "connection": connection,
                "sockets": handed,
            }
            seen = {
                **self.seen,
                Path(__file__).with_name("start_kernel.py"): START,
                Path(self.connection_file): connection,
                Path(folder): FILES,
            }
            sandbox = _KernelSandbox(
                python(START, json.dumps(told)),
                self.limits,
                seen,
                errors=subprocess.PIPE,
                handed=tuple(handed.values()),
            )
        self.readers = [
            threading.Thread(target=_read, args=(pipe, kept), daemon=True)
            for pipe, kept in ((sandbox.stdout, bytearray()), (sandbox.process.stderr, self.said))
        ]
        for reader in self.readers:
            reader.start()
        return self.stack.enter_context(sandbox)

    def client(self, **options: Any) -> Any:
        """Our end of the lines to it: what the kernel says waits in our memory until we read it.

        Args:
            options: jupyter_client's own.
        """
        client = super().client(**options)
        bound(client.context, self.limits)  # jupyter_client gives each client a context of its own
        return client

    def stop(self, why: str) -> None:
        """End the kernel and everything that it has started.

        Args:
            why: What to remember as the reason.
        """
        if self.process.sandbox is not None:
            self.process.sandbox.stop(why)

    @property
    def stopped(self) -> str:
        """Which limit it exceeded, in words; "" where it exceeded none."""
        return self.process.sandbox.settled() if self.process.sandbox else ""

    @property
    def complaint(self) -> str:
        """What its process had said when it ended; "" where it runs, or has said nothing."""
        sandbox = self.process.sandbox
        if sandbox is None or sandbox.process.poll() is None:
            return ""
        for reader in self.readers:
            reader.join(GOING)
        return self.said[:KEPT].decode(errors="replace").strip()

    def close(self) -> None:
        """End whatever is left of it, and remove its sockets."""
        self.stack.close()


def bound(context: zmq.Context[Any], limits: Limits) -> None:
    """Set what the sockets that are made from now on may hold, and how long they wait.

    Args:
        context: ZeroMQ's maker of sockets.
        limits: The kernel's.
    """
    context.setsockopt(zmq.MAXMSGSIZE, 2 * limits.output)  # a larger message cuts the line
    context.setsockopt(zmq.RCVHWM, WAITING)
    context.setsockopt(zmq.SNDTIMEO, int(1000 * SENDING))  # milliseconds


def _read(pipe: IO[bytes], kept: bytearray) -> None:
    """Read what the process prints outside of the notebook to its end, so that it never waits for us.

    Args:
        pipe: Its output or errors.
        kept: Where the beginning goes.
    """
    with suppress(ValueError):  # the pipe was closed
        while piece := pipe.read1(65536):  # type: ignore[attr-defined] # a pipe is buffered
            if len(kept) < KEPT:
                kept += piece


class Provisioner(LocalProvisioner):
    """jupyter_client's way to start and end a process, for one in the sandbox."""

    sandbox: Sandbox | None = None
    parent: SandboxedKernel

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel.

        Args:
            cmd: Not used: what is run is in `start_kernel`.
            kwargs: Of these, `cwd` is the folder whose files it gets.

        Returns:
            How the kernel is reached.
        """
        self.sandbox = self.parent.start_in(kwargs["cwd"])
        self.process = self.sandbox.process
        return self.connection_info

    async def send_signal(self, signum: int) -> None:
        """An interrupt goes to the kernel and what it has started; with any other signal everything ends."""
        if self.sandbox is None or self.process is None:
            return
        if signum != signal.SIGINT:
            self.sandbox.stop("it was shut down")
            return
        first = children(self.process.pid)  # bwrap's child, which waits for orphans
        for kernel in children(first[0])[:1] if first else []:
            for pid in tree(kernel):
                with suppress(ProcessLookupError):
                    os.kill(pid, signum)
