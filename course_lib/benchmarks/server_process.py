"""A server in a process of its own, which never outlives the process that started it."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from course_lib.errors import CourseError

START_S = 300.0  # a server has so many seconds to load its model
STOP_S = 60.0  # and so many to finish what it has begun


class ServerProcess:
    """A running server on this machine. Use it in a `with` statement.

    Args:
        words: of its command line, behind the module.
        module: what `python -m` is to run. It prints the server's address, and the server answers GET /health.
        cwd: the folder to run it in; None: this process's own.
        environment: variables besides those of this process. Settings of other servers are left out: an API key of
            theirs is not for this one.

    Attributes:
        process: it; it ends by itself when this process is gone (see `watched`).
        url: the address, such as http://127.0.0.1:8000.

    Raises:
        CourseError: the server ended before it answered, or it did not answer in time. Its own words are passed on.
    """

    def __init__(
        self,
        words: Sequence[str],
        module: str = "course_lib.cli",
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        own = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_SERVE_")}
        self._lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "course_lib.benchmarks.watched", module, *words],
            stdin=subprocess.PIPE,  # nothing is written: it closes when this process ends
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=cwd,
            env=own | {"PYTHONUNBUFFERED": "1"} | dict(environment or {}),
        )
        # Somebody has to read while clients are served: a full pipe would stop the server.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.url = self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)

    @property
    def output(self) -> str:
        """What the server has printed so far."""
        return "".join(self._lines)

    @property
    def port(self) -> int:
        """The port of its address."""
        return int(self.url.rpartition(":")[2])

    def _wait_until_it_answers(self) -> str:
        """The address, once /health says 200 there."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                self._reader.join(STOP_S)  # its last words are still in the pipe
                raise CourseError(f"The server ended before it could be asked anything: {self._last_words()}")
            found = re.search(r"(http://\S+?:\d+)\s", self.output)
            if found and _is_healthy(found[1]):
                return found[1]
            time.sleep(0.05)
        raise CourseError(f"The server did not answer within {START_S:.0f} s: {self._last_words()}")

    def _last_words(self) -> str:
        return self.output.strip()[-500:] or "it printed nothing"

    def stop(self) -> None:
        """End the process, gently first. A second Ctrl-C ends the patience."""
        try:
            self.process.terminate()
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._reader.join(STOP_S)
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _is_healthy(url: str) -> bool:
    connection = HTTPConnection(url.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):  # it does not listen yet
        return False
    finally:
        connection.close()
