"""A command of pip, followed: its output in a log, its progress on the screen, its failure in one sentence.

Standard library only, 3.6 syntax, as all of set-up.
"""

import os
import re
import shlex
import subprocess
import sys
import threading
import time

LOG = os.path.join("build", "setup.log")


class SetupError(Exception):
    """What was wrong and what to do, in one sentence."""


class Progress:
    """Step lines with the elapsed time; a line that is redrawn (terminal) or repeated (log) while pip works."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.live = sys.stdout.isatty()

    def seconds(self) -> float:
        return time.monotonic() - self.start

    def step(self, text: str) -> None:
        print(f"set-up [{self.seconds():4.0f} s] {text}", flush=True)

    def tick(self, text: str) -> None:
        if self.live:
            print(f"\r\033[Kset-up [{self.seconds():4.0f} s]   {text[:90]}", end="", flush=True)

    def clear(self) -> None:
        if self.live:
            print("\r\033[K", end="", flush=True)


def clean_environment() -> dict:
    """The environment without what would point pip or Python at another place than .venv."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIREMENT", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    kept.update(PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    return kept


def news(line: str) -> str:
    """What a line of pip's output tells a waiting reader; empty for the rest."""
    if line.startswith("Installing collected packages:"):
        return f"unpacking {line.count(',') + 1} packages"
    return line.strip() if line.startswith(("Collecting", "Downloading", "Building")) else ""


def log_tail(path: str, lines: int = 15) -> str:
    """The end of a log, for a message.

    Args:
        path: the file.
        lines: how many of its last lines to show.

    Returns:
        The lines, with their ends.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        return "".join(file.readlines()[-lines:])


def run_logged(command: list, root: str, progress: Progress) -> None:
    """Run a command with its output in build/setup.log.

    Args:
        command: its words.
        root: the clone, where it runs.
        progress: is told what the command says.

    Raises:
        SetupError: the command failed. The last lines of the log have been shown, and the likely cause is named.
    """
    path = os.path.join(root, LOG)
    latest = ["starting"]
    process = subprocess.Popen(
        command, cwd=root, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, universal_newlines=True, errors="replace",
    )  # fmt: skip

    def copy() -> None:
        """The command, then its lines as they come, to the log; the newest that says something is kept."""
        with open(path, "a", encoding="utf-8") as log:
            log.write("$ " + " ".join(shlex.quote(word) for word in command) + "\n")
            for line in process.stdout or ():
                log.write(line)
                log.flush()
                latest[0] = news(line) or latest[0]

    copier = threading.Thread(target=copy, daemon=True)
    copier.start()
    wait_with_progress(process, latest, progress)
    copier.join(timeout=5)
    if process.returncode:
        print(log_tail(path), file=sys.stderr)
        raise SetupError(f"pip could not install what is needed (above; all of it in {LOG}): {likely_cause(path)}")


def wait_with_progress(process: subprocess.Popen, latest: list, progress: Progress) -> None:
    """Wait for a process, and stop it if we are stopped.

    Args:
        process: the process.
        latest: its newest line that says something, in a list that another thread changes.
        progress: is told that line, each second on a terminal and every 30 s in a log.
    """
    next_line = progress.seconds() + 30
    try:
        while True:
            try:
                process.wait(timeout=1)
                return
            except subprocess.TimeoutExpired:
                progress.tick(latest[0])
            if not progress.live and progress.seconds() > next_line:
                progress.step("  " + latest[0][:90])
                next_line += 30
    finally:
        progress.clear()
        if process.poll() is None:
            process.terminate()
            process.wait()


def likely_cause(log: str) -> str:
    """One sentence about the commonest failures, from the end of pip's log."""
    tail = log_tail(log, 40)
    if "No space left on device" in tail:
        return "the disk is full (pip also needs room in the folder for temporary files, TMPDIR)."
    if re.search(r"NewConnectionError|Temporary failure in name|Max retries|ReadTimeout|Connection", tail):
        return "the package index could not be reached; check the network or proxy and run the same command again."
    if "No matching distribution" in tail:
        return "the index has no build of that package for this Python and system; try Python 3.11 to 3.13."
    return "run the same command again; it resumes, and if it stops at the same place please report the log."
