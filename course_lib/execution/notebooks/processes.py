"""Processes of a run: how they are stopped, and what is said of one that stopped by itself."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


@contextmanager
def signals_ignored() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM do nothing. (Only the main thread receives signals; elsewhere nothing is changed.)"""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def why_it_ended(status: int, stderr: Path) -> str:
    """Why a worker ended without having said so itself.

    Args:
        status: its exit status; negative: the signal that killed it.
        stderr: the file that its standard error went to.

    Returns:
        The reason, for a message.
    """
    if status < 0:
        return f"the process that ran the notebook was killed by {signal.Signals(-status).name}"
    lines = stderr.read_text(errors="replace").strip().splitlines()
    return f"the process that ran the notebook ended with {status}: {lines[-1] if lines else 'no message'}"


def kill_with_descendants(process: subprocess.Popen) -> None:
    """Kill a process and everything that it started; return when the process itself is gone."""
    try:
        descendants = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        descendants = []
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    for descendant in descendants:
        try:
            descendant.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
