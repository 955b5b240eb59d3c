"""How much memory a run takes, now and at its peak."""

import ctypes
import re
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import nn

STATUS = Path("/proc/self/status")
# mallopt(3) of glibc: blocks from this size on are returned to the system as soon as they are freed, and of the smaller
# ones at most so many bytes are kept at the end of the heap.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
RETURNED_AT_ONCE, KEPT = 2**20, 2**26
LARGE = 2**26  # bytes of gradients from which a backward pass is worth some trims of the heap


def return_freed_memory() -> None:
    """Give memory that is free back to the system, now and from now on (glibc only; elsewhere nothing happens).

    What a notebook's earlier cells have freed lies in holes of the heap, 0.1 GB after the first half of chapter 02.
    `malloc_trim` returns the whole pages among them. And glibc raises the size from which it returns a freed block at
    once, up to 32 MB, whenever a larger block is freed. Then the gradients of a step, which are freed after it, stay in
    the process as holes between other blocks: with all of SmolLM2 in training, some 0.4 GB. A fixed 1 MB does not cost
    time: the weight matrices of a small model are below it, and are reused.
    """
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library with its thresholds set, or None where it is another one than glibc."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, RETURNED_AT_ONCE)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)
        libc.malloc_trim  # noqa: B018 (an AttributeError here means another C library)
    except (AttributeError, OSError, TypeError):  # macOS, Windows, musl
        return None
    return libc


def return_blocks_from(size: int) -> None:
    """Give freed blocks of at least `size` bytes back to the system at once, and keep as much at the heap's end.

    For measurements: memory in use then means tensors, and not holes between them. It costs time (glibc only).
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(M_MMAP_THRESHOLD, size)
        libc.mallopt(M_TRIM_THRESHOLD, size)


@contextmanager
def trimmed_backward(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """A backward pass in this block gives what it frees back to the system on its way (glibc only).

    While gradients grow, activations are freed. They leave holes in the heap, and a weight's gradient does not go into
    a hole: it is large, and gets pages of its own. So a process is at its largest at the end of the pass, by the sum of
    all holes: 70 MB, with all of SmolLM2 in training on 128 tokens. Here the heap is trimmed four times on the way,
    when half of the parameters have no gradient yet, a quarter, an eighth and a sixteenth. That leaves 5 MB of holes
    and costs some 20 ms. A small model is left alone: its pass takes no longer than that.

    Args:
        parameters: those that are trained, in the order of the forward pass.
    """
    libc = _glibc() if sum(p.nbytes for p in parameters) >= LARGE else None
    if libc is None or parameters[0].device.type != "cpu":
        yield
        return
    # The backward pass goes from the last parameter to the first.
    places = [parameters[len(parameters) // part] for part in (2, 4, 8, 16)]

    def trim(_: torch.Tensor) -> None:
        libc.malloc_trim(0)  # its result is not ours: autograd takes what a hook returns for a tensor

    handles = [place.register_post_accumulate_grad_hook(trim) for place in places]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
