"""How much a process in the sandbox may use, all that it starts included."""

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What ends a process when it is exceeded.

    The kernel itself holds the limits of one process (`address_space`, `file_size`, `open_files`) and the size of the
    scratch folder. For the rest a watchdog looks at the whole process tree several times a second, because the kernel's
    own limit on processes does not hold for root.

    wall: seconds from its start. cpu: seconds of all processes together. memory: bytes that all of them hold.
    tasks: processes and threads. output: bytes that are kept of its standard output, and of its standard error.
    """

    wall: float = 120.0
    cpu: float = 120.0
    memory: int = 1024 * MIB
    tasks: int = 64
    address_space: int = 4096 * MIB
    file_size: int = 16 * MIB
    scratch: int = 32 * MIB
    open_files: int = 128
    output: int = 1 * MIB
