"""What a process tree uses, read from /proc: rlimits hold for one process each, and hardly for root."""

import os
from dataclasses import dataclass
from pathlib import Path

from autograder.sandbox.limits import MIB, Limits

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass
class Usage:
    """Of all processes of a tree: processes and threads, seconds of CPU time, bytes of memory."""

    tasks: int = 0
    cpu: float = 0.0
    memory: int = 0


def tree(root: int) -> list[int]:
    """The ids of a process and of everything below it. An orphan is found too where the tree has a reaper of its own.

    Args:
        root: The id of the topmost process.
    """
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children(pid)
    return found


def children(pid: int) -> list[int]:
    """The ids of a process's children; none where it has just ended."""
    found: list[int] = []
    try:
        for task in (PROC / str(pid) / "task").iterdir():
            found += map(int, (task / "children").read_text().split())
    except OSError:
        pass
    return found


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and that nobody has waited for does not."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def usage(root: int) -> Usage:
    """What the process tree below `root` uses now. A process that has ended counts with the CPU time that its parent
    has collected.

    Args:
        root: The id of the topmost process, which is ours and does not count.
    """
    total, members = Usage(), tree(root)[1:]
    for pid in members:
        try:
            # the name in brackets may hold blanks and brackets itself
            fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total.cpu += sum(map(int, fields[11:15])) / TICKS  # utime, stime, and those of the children it waited for
        total.tasks += int(fields[17])
        total.memory += int(fields[21]) * PAGE
    return total


def own_memory() -> int:
    """Bytes of memory that this process itself holds."""
    return int((PROC / "self" / "statm").read_text().split()[1]) * PAGE


def exceeded(root: int, limits: Limits) -> str:
    """Which limit the process tree below `root` exceeds, in words; "" where it exceeds none.

    Args:
        root: As in `usage`.
        limits: What it may use.

    Returns:
        The words, or an empty text.
    """
    now = usage(root)
    if now.tasks > limits.tasks:
        return f"it started more than {limits.tasks} processes and threads"
    if now.cpu > limits.cpu:
        return f"it used over {limits.cpu:g} seconds of CPU time"
    # forked processes share pages, which the kernel counts for each of them: look closely only where it matters
    if now.memory > limits.memory and _proportional(root) > limits.memory:
        return f"it took over {limits.memory // MIB} MiB of memory"
    return ""


def _proportional(root: int) -> int:
    """Bytes of memory, where a page that several processes share counts once."""
    total = 0
    for pid in tree(root)[1:]:
        try:
            lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total
