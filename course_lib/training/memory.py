"""How much memory a run takes, now and at its peak."""

import ctypes
import re
import resource
import sys
from functools import cache
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
# mallopt(3) of glibc: blocks from this size on are returned to the system as soon as they are freed, and of the smaller
# ones at most so many bytes are kept at the end of the heap.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
RETURNED_AT_ONCE, KEPT = 2**20, 2**26


@cache
def return_freed_memory(at_once: int = RETURNED_AT_ONCE, kept: int = KEPT) -> None:
    """Let this process give the memory of large tensors back to the system when they are freed (glibc only).

    glibc raises the size from which it does so, up to 32 MB, whenever a larger block is freed. Then the gradients of a
    step, which are freed after it, stay in the process as holes between other blocks: with all of SmolLM2 in training,
    some 0.4 GB. A fixed 1 MB does not cost time: the weight matrices of a small model are below it, and are reused.

    Args:
        at_once: blocks of at least so many bytes are returned when they are freed.
        kept: so many bytes of smaller blocks are kept at the end of the heap.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, Windows, musl
        return
    mallopt(M_MMAP_THRESHOLD, at_once)
    mallopt(M_TRIM_THRESHOLD, kept)


def current_memory(device: torch.device) -> int:
    """Bytes in use now on the GPU, or by the whole process. On macOS only the process's peak can be read."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if STATUS.is_file() and (found := re.search(r"VmRSS:\s*(\d+) kB", STATUS.read_text())):
        return 1024 * int(found[1])
    return peak_memory(device)


def peak_memory(device: torch.device) -> int:
    """The most bytes in use: on the GPU since `reset_peak_memory`, or by the whole process since it began.

    On Linux the number comes from /proc. getrusage would also count the parent of a process just started.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if STATUS.is_file() and (found := re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())):
        return 1024 * int(found[1])
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts kilobytes, on macOS bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak on a GPU. That of a process stays: it is of the whole run (see `reset_process_peak`)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def reset_process_peak() -> bool:
    """Begin a new peak of this process (Linux only: proc(5), clear_refs). Returns whether that was possible."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
