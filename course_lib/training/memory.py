"""How much memory a run takes, now and at its peak."""

import re
import resource
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")


def current_memory(device: torch.device) -> int:
    """Bytes in use now: on the GPU, or by the whole process (on macOS its peak, which is all that can be read)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if STATUS.is_file() and (found := re.search(r"VmRSS:\s*(\d+) kB", STATUS.read_text())):
        return 1024 * int(found[1])
    return peak_memory(device)


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU since `reset_peak_memory`, or of the whole process since it began.

    On Linux from /proc: what getrusage says there also counts the parent of a process just started.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if STATUS.is_file() and (found := re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())):
        return 1024 * int(found[1])
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts kilobytes, on macOS bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak (a process's own cannot be reset)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
