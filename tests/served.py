"""Real servers in processes of their own, on a port that the system chooses."""

import contextlib
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Served:
    """A running server: its address, and what it has printed so far."""

    def __init__(self, process):
        self.process, self.lines, self.url = process, [], None
        self.ready, self.reader = threading.Event(), threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            # course serve's own line comes before uvicorn listens, so its "complete" counts
            if found := re.search(r"(http://\S+?:\d+)[ )]", line):
                self.url = found[1]
            if self.url and ("startup complete" in line or "running on" in line):  # uvicorn's own line comes after it
                self.ready.set()
        self.ready.set()

    @property
    def output(self):
        return "".join(self.lines)

    def stop(self):
        self.process.terminate()
        self.process.wait(60)
        self.reader.join(10)


@contextlib.contextmanager
def served(*words, program=("-m", "course_lib.cli", "serve", "--port", "0"), cwd=None, **environment):
    """A server started by these words. It is stopped by SIGTERM at the end."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_SERVE_")}
    settings |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, *program, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env=settings | environment,
    )
    running = Served(process)
    try:
        assert running.ready.wait(120), running.output
        assert process.poll() is None, running.output
        yield running
    finally:
        running.stop()
