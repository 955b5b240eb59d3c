"""Namespaces of its own for one submission's process, inside the sandbox in which trusted imports have been done.

A process that bubblewrap has started can be forked, and its fork can be shut in again: it sees no process but its own,
a scratch folder of its own, and no System V memory that an earlier one has left. See user_namespaces(7). The file
stands alone, see `wire`.
"""

import ctypes
import os
import signal

USER, PROCESSES, MOUNTS, IPC = 0x10000000, 0x20000000, 0x00020000, 0x08000000  # CLONE_NEW…, of <linux/sched.h>
NOSUID, NODEV, NOEXEC, READ_ONLY = 2, 4, 8, 1  # MS_…, of <linux/mount.h>
REMOUNT, BIND, RECURSIVE, PRIVATE = 0x20, 0x1000, 0x4000, 1 << 18
PARENT_DEATH, NO_NEW_PRIVILEGES = 1, 38  # PR_…, of <linux/prctl.h>
CAPABILITIES = 0x20080522  # the version of struct __user_cap_header_struct
SCRATCH = ("/tmp", "/dev/shm")
MACHINE = ("cpuinfo", "loadavg", "meminfo", "stat", "uptime", "version")  # PyTorch chooses its kernels after cpuinfo


def shut_in(scratch: int) -> None:
    """Go on as the first process of new namespaces; the process that called ends when it does.

    Args:
        scratch: Bytes that each of the folders for scratch files can hold.

    Raises:
        OSError: The system does not allow it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    _done(libc.unshare(USER | PROCESSES | MOUNTS | IPC), "unshare")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{uid} {uid} 1")
    _write("/proc/self/gid_map", f"{gid} {gid} 1")
    first = os.fork()
    if first:
        os.waitpid(first, 0)  # the kernel ends it only after all others of its namespace
        os._exit(0)
    _done(libc.prctl(PARENT_DEATH, signal.SIGKILL, 0, 0, 0), "prctl")
    os.setsid()  # a signal to its process group must not reach the process that was forked
    _mount(libc, "none", "/", "", RECURSIVE | PRIVATE, "")
    try:
        _mount(libc, "proc", "/proc", "proc", NOSUID | NODEV | NOEXEC, "")
    except OSError:  # bubblewrap has hidden a part of its own, and so the kernel allows no new one
        _machine_only(libc, SCRATCH[0])
    for folder in SCRATCH:
        _mount(libc, "tmpfs", folder, "tmpfs", NOSUID | NODEV, f"size={scratch},mode=1777")
    os.chdir(SCRATCH[0])
    _drop_capabilities(libc)


def _machine_only(libc: ctypes.CDLL, place: str) -> None:
    """Put a folder over /proc that tells of the machine and of no process.

    Args:
        libc: The C library.
        place: A folder for making it, over which something else is mounted afterwards.
    """
    _mount(libc, "tmpfs", place, "tmpfs", NOSUID | NODEV | NOEXEC, "size=4096,mode=755")
    for name in MACHINE:
        _write(f"{place}/{name}", "")
        _mount(libc, f"/proc/{name}", f"{place}/{name}", "", BIND, "")
    _mount(libc, place, "/proc", "", BIND | RECURSIVE, "")
    _mount(libc, "", "/proc", "", REMOUNT | BIND | READ_ONLY | NOSUID | NODEV | NOEXEC, "")


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Give up the rights over the new namespaces, for good."""
    header = (ctypes.c_uint32 * 2)(CAPABILITIES, 0)
    _done(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")
    _done(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def _mount(libc: ctypes.CDLL, source: str, target: str, kind: str, flags: int, options: str) -> None:
    words = [word.encode() for word in (source, target, kind)]
    _done(libc.mount(*words, ctypes.c_ulong(flags), options.encode()), f"mount of {target}")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _done(status: int, what: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
