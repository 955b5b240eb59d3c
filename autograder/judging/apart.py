"""Namespaces of its own for one submission's process, inside the sandbox in which trusted imports have been done.

A process that bubblewrap has started can be forked, and its fork can be shut in again: it sees no process but its own,
a scratch folder of its own, a network of its own, and no System V memory that an earlier one has left. See
user_namespaces(7). The file stands alone, see `wire`.
"""

import ctypes
import fcntl
import os
import signal
import socket
import struct

import calls  # type: ignore[import-not-found]  # beside this file

USER, PROCESSES, MOUNTS, IPC = 0x10000000, 0x20000000, 0x00020000, 0x08000000  # CLONE_NEW…, of <linux/sched.h>
NETWORK = 0x40000000  # even a network without interfaces remembers which ports were used a minute ago
SET_FLAGS, UP = 0x8914, 1  # SIOCSIFFLAGS and IFF_UP, of <linux/sockios.h> and <linux/if.h>
NOSUID, NODEV, NOEXEC, READ_ONLY = 2, 4, 8, 1  # MS_…, of <linux/mount.h>
REMOUNT, BIND, RECURSIVE, PRIVATE = 0x20, 0x1000, 0x4000, 1 << 18
PARENT_DEATH, FILTER_CALLS, NO_NEW_PRIVILEGES = 1, 22, 38  # PR_…, of <linux/prctl.h>
WITH_A_PROGRAM = 2  # SECCOMP_MODE_FILTER, of <linux/seccomp.h>
CAPABILITIES = 0x20080522  # the version of struct __user_cap_header_struct
SCRATCH = ("/tmp", "/dev/shm")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "pts")
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
    _done(libc.unshare(USER | PROCESSES | MOUNTS | IPC | NETWORK), "unshare")
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
        _mount(libc, "proc", "/proc", "proc", READ_ONLY | NOSUID | NODEV | NOEXEC, "")
    except OSError:  # bubblewrap has hidden a part of its own, and so the kernel allows no new one
        _machine_only(libc, SCRATCH[0])
    for folder in SCRATCH:
        _mount(libc, "tmpfs", folder, "tmpfs", NOSUID | NODEV, f"size={scratch},mode=1777")
    for name in DEVICES:  # they are the machine's own: a submission of root's could change who may use them
        _mount(libc, "", f"/dev/{name}", "", REMOUNT | BIND | READ_ONLY | NOSUID | NOEXEC, "")
    os.chdir(SCRATCH[0])
    _loopback()
    _drop_capabilities(libc)
    _refuse_calls(libc)


def _loopback() -> None:
    """Let it talk to itself, as in bubblewrap's own network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sH22x", b"lo", UP))


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
    for covered in ("/proc", *(f"/proc/{name}" for name in MACHINE)):  # their modes are the machine's, and root's
        _mount(libc, "", covered, "", REMOUNT | BIND | READ_ONLY | NOSUID | NODEV | NOEXEC, "")


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Give up the rights over the new namespaces, for good."""
    header = (ctypes.c_uint32 * 2)(CAPABILITIES, 0)
    _done(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")
    _done(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def _refuse_calls(libc: ctypes.CDLL) -> None:
    """Have the kernel refuse what no submission may ask of it."""
    program = calls.refusals()
    if program:
        lines = ctypes.create_string_buffer(program, len(program))
        about = struct.pack("HP", len(program) // 8, ctypes.addressof(lines))  # struct sock_fprog
        _done(libc.prctl(FILTER_CALLS, WITH_A_PROGRAM, ctypes.c_char_p(about), 0, 0), "prctl")


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
