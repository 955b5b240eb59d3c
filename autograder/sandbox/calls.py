"""The kernel's calls that no submission may make, as a filter for the kernel: see seccomp(2).

Some give memory that belongs to no process, so that the watchdog could not count it. Others make namespaces in which a
process has rights, or reach into another process. No honest answer needs them. The file stands alone, see
`autograder.judging.wire`.
"""

import platform
import struct

# the number of each call by machine, of <asm/unistd.h>
NUMBERS = {
    "x86_64": {
        "memfd_create": 319,
        "memfd_secret": 447,
        "shmget": 29,
        "msgget": 68,
        "unshare": 272,
        "setns": 308,
        "mount": 165,
        "umount2": 166,
        "fsopen": 430,
        "open_tree": 428,
        "io_uring_setup": 425,
        "userfaultfd": 323,
        "bpf": 321,
        "perf_event_open": 298,
        "ptrace": 101,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "pidfd_getfd": 438,
        "add_key": 248,
        "request_key": 249,
        "keyctl": 250,
    },
    "aarch64": {
        "memfd_create": 279,
        "memfd_secret": 447,
        "shmget": 194,
        "msgget": 186,
        "unshare": 97,
        "setns": 268,
        "mount": 40,
        "umount2": 39,
        "fsopen": 430,
        "open_tree": 428,
        "io_uring_setup": 425,
        "userfaultfd": 282,
        "bpf": 280,
        "perf_event_open": 241,
        "ptrace": 117,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "pidfd_getfd": 438,
        "add_key": 217,
        "request_key": 218,
        "keyctl": 219,
    },
}
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3 = 435
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_…, of <linux/audit.h>
OTHER_TABLE = 0x40000000  # from here on, x86_64 has the same calls once more
NEW_USER = 0x10000000  # CLONE_NEWUSER, of <linux/sched.h>
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of <linux/bpf_common.h>
NUMBER, MACHINE, FIRST_ARGUMENT = 0, 4, 16  # places in struct seccomp_data
ALLOW, KILL, NOT_PERMITTED, NO_SUCH_CALL = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026


def refusals() -> bytes:
    """The filter, an array of struct sock_filter; empty on a machine whose numbers are not known here."""
    name = platform.machine()
    if name not in NUMBERS:
        return b""
    lines = [(LOAD, 0, 0, MACHINE), *_where(EQUAL, MACHINES[name], otherwise=KILL)]
    lines += [(LOAD, 0, 0, NUMBER), *_where(AT_LEAST, OTHER_TABLE, NOT_PERMITTED)]
    for number in NUMBERS[name].values():
        lines += _where(EQUAL, number, NOT_PERMITTED)
    lines += _where(EQUAL, CLONE3, NO_SUCH_CALL)  # no filter sees its flags; the C library then uses clone
    lines += [(EQUAL, 0, 3, CLONE[name]), (LOAD, 0, 0, FIRST_ARGUMENT), *_where(ANY_BIT, NEW_USER, NOT_PERMITTED)]
    lines.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _where(condition: int, value: int, verdict: int = ALLOW, otherwise: int = ALLOW) -> list[tuple[int, int, int, int]]:
    """Two instructions: a verdict where the condition holds, or else where it does not hold; the filter goes on."""
    skip = (0, 1) if otherwise == ALLOW else (1, 0)
    return [(condition, *skip, value), (RETURN, 0, 0, verdict if otherwise == ALLOW else otherwise)]
