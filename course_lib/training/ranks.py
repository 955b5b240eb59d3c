"""A few processes of this machine that wait for functions: a notebook runs its own code on several ranks.

`torchrun` starts a program anew for each experiment, and importing torch takes seconds. These processes stay:

    with Ranks(2) as ranks:
        ranks.run(average, tensors, uses=(ring_all_reduce,))

A function travels as its source text, so it may be defined in a cell. In the other process it finds `torch`, `dist`
(torch.distributed, with a gloo group that all processes have joined), `nn`, `F`, `np`, `copy`, `math` and `time`.
For a real run take `torchrun` (see `training.distributed`).
"""

import inspect
import os
import pickle
import secrets
import subprocess
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from typing import Any

from course_lib.errors import CourseError

START_SECONDS = 120  # importing torch on a loaded machine


class Ranks:
    """Processes that share a gloo group.

    Args:
        size: how many.
        timeout: seconds that a rank waits for another one in a collective operation.

    Raises:
        CourseError: a process did not start.
    """

    def __init__(self, size: int = 2, timeout: float = 60):
        self._folder = tempfile.TemporaryDirectory(prefix="ranks")
        key = secrets.token_bytes(16)
        # One thread each: two processes with two threads on two cores get into each other's way.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "RANKS_KEY": key.hex()}
        self._processes: list[subprocess.Popen] = []
        self._connections: list[Connection] = []
        with Listener(authkey=key) as listener:
            for rank in range(size):
                words = [str(listener.address), str(rank), str(size), str(Path(self._folder.name, "store"))]
                command = [sys.executable, "-m", "course_lib.training.ranks", *words, str(timeout)]
                self._processes.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))
                # A rank calls at once and joins the group later, so that all may start side by side.
                self._connections.append(listener.accept())
        for connection in self._connections:
            self._answer(connection, START_SECONDS)

    def run(self, function: Callable, *arguments: Any, uses: Sequence[Callable] = ()) -> list:
        """Call `function(*arguments)` in every process at the same time.

        Args:
            function: a function that is written with `def`; nothing from around it travels with it.
            arguments: the same for every process; it can tell them apart by `dist.get_rank()`.
            uses: functions that it calls.

        Returns:
            What each rank returned, in order.

        Raises:
            CourseError: a rank failed; it has the rank's traceback. All processes are ended, because the others may be
                waiting for it.
        """
        source = "\n\n".join(textwrap.dedent(inspect.getsource(each)) for each in (*uses, function))
        for connection in self._connections:
            _send(connection, (source, function.__name__, arguments))
        found: dict[Any, Any] = {}  # by connection
        while len(found) < len(self._connections):  # whoever fails answers first, while others wait for it
            for each in wait([one for one in self._connections if one not in found]):
                found[each] = self._answer(each, 0)
        return [found[each] for each in self._connections]

    def _answer(self, connection: Any, seconds: float) -> Any:
        """One rank's result."""
        rank = self._connections.index(connection)
        try:
            if seconds and not connection.poll(seconds):
                raise EOFError
            ok, value = _receive(connection)
        except (EOFError, ConnectionError):
            ok, value = False, "it ended, or did not answer; its last words are on the notebook's terminal"
        if not ok:
            self.close()
            raise CourseError(f"Rank {rank} failed: {value}")
        return value

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.close()  # a waiting rank takes the end of its connection for the end of its work
        for process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._folder.cleanup()

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _send(connection: Any, value: Any) -> None:
    """Send a copy. torch teaches `Connection.send` to share a tensor's memory instead, by handles that end with us."""
    connection.send_bytes(pickle.dumps(value))


def _receive(connection: Any) -> Any:
    return pickle.loads(connection.recv_bytes())  # from a process of ours, which knows the key


def main(address: str, rank: str, size: str, store: str, timeout: str) -> None:
    """One of the processes: join the group, then run what comes.

    Args:
        address: where the notebook listens.
        rank: this process's number.
        size: how many there are.
        store: a file by which they find each other.
        timeout: seconds.
    """
    connection = Client(address, authkey=bytes.fromhex(os.environ.pop("RANKS_KEY")))
    names: dict[str, Any] = {"__name__": "rank"}
    exec(
        "import copy, math, time\nimport numpy as np\nimport torch\nimport torch.distributed as dist\n"
        "from torch import nn\nfrom torch.nn import functional as F\n",
        names,
    )
    dist = names["dist"]
    wait_for = timedelta(seconds=float(timeout))
    dist.init_process_group("gloo", f"file://{store}", wait_for, int(size), int(rank))
    _send(connection, (True, None))
    while True:
        try:
            source, name, arguments = _receive(connection)
        except (EOFError, ConnectionError):
            break
        try:
            exec(compile(source, "<notebook>", "exec"), names)
            answer = (True, names[name](*arguments))
        except Exception:
            answer = (False, traceback.format_exc(limit=-3))
        try:
            _send(connection, answer)
        except ConnectionError:  # another rank failed first, and the notebook has gone
            break
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
