"""The command line of bubblewrap: what a process in the sandbox can see, and what not."""

import os
import re
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from autograder.sandbox.limits import Limits
from course_lib.errors import CourseError

INSTALL = (
    "The sandbox needs the program bwrap (bubblewrap), and {problem}. Install it with `apt-get install bubblewrap` on"
    " Debian and Ubuntu, or `dnf install bubblewrap` on Fedora; or pass --no-sandbox, which runs submissions with your"
    " rights and says so in every report."
)
FORBIDDEN = (
    "Try `bwrap --unshare-all --ro-bind / / true`: where that fails, this system forbids what the sandbox needs, see"
    " the page 'What grading defends against'."
)
SCRATCH = "/tmp"  # in the sandbox: the only place that can be written to
# where interpreters keep installed packages: an answer may use those that its assignment names
PACKAGES = ("lib/python3*/site-packages", "lib/python3*/dist-packages", "local/lib/python3*/dist-packages")
OLDEST = (0, 8)  # it has --size
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": SCRATCH,
    "TMPDIR": SCRATCH,
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def require() -> str:
    """The path of bwrap.

    Raises:
        CourseError: It is not there, or this system has none; the message says how to install it.
    """
    found = shutil.which("bwrap")
    if found is None or shutil.which("prlimit") is None:
        problem = "this system has no prlimit" if found else "it is not installed"
        raise CourseError(INSTALL.format(problem=problem))
    version = _version(found)
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise CourseError(INSTALL.format(problem=f"its version {version} is older than 0.8"))
    return found


@lru_cache
def _version(bwrap: str) -> str:
    """Its version, such as "0.8.0"."""
    said = subprocess.run([bwrap, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+\.\d+[.\d]*", said)
    return found[0] if found else "0.0"


def command(program: list[str], limits: Limits, seen: dict[Path, str], refused: int | None = None) -> list[str]:
    """`program` in a sandbox: no network, no processes but its own, a read-only system, and a scratch folder in memory.

    Of the file system it sees /usr, the interpreter, and `seen`. The packages of this course are hidden where they lie
    in one of these.

    Args:
        program: What to run, with paths as they are inside.
        limits: The scratch folder's size, and the limits of a single process.
        seen: Files and folders that it may read, and where it has them.
        refused: A file descriptor with the filter of `calls`; None for a program that is trusted, which may then make
            namespaces for others.

    Returns:
        The command line.
    """
    options = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    options += ["--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
    for name, value in ENVIRONMENT.items():
        options += ["--setenv", name, value]
    options += [*_system(), "--proc", "/proc", "--dev", "/dev"]
    for folder in ("/dev/shm", SCRATCH):
        options += ["--size", str(limits.scratch), "--tmpfs", folder]
    for outside, inside in seen.items():
        options += ["--ro-bind", str(outside), inside]
    # without these, both could be written to without a limit
    options += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", SCRATCH]
    if refused is not None:
        options += ["--remount-ro", "/proc", "--seccomp", str(refused)]
    return [require(), *options, "--", *_limited(limits), *program]


def interpreter() -> str:
    """This Python's own executable, not the one of a virtual environment, whose folder the sandbox does not have."""
    return os.path.realpath(sys.executable)


def _system() -> list[str]:
    """The parts of the file system that every program needs, without the course."""
    options = ["--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/sbin", "/lib", "/lib64", "/lib32"):
        path = Path(name)
        if path.is_symlink():
            options += ["--symlink", os.readlink(path), name]
        elif path.is_dir():
            options += ["--ro-bind", name, name]
    options += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    shown = [Path("/usr")]
    base = Path(sys.base_prefix).resolve()
    if not base.is_relative_to("/usr"):
        options += ["--ro-bind", str(base), str(base)]
        shown.append(base)
    packages = [found for folder in shown for pattern in PACKAGES for found in folder.glob(pattern)]
    for package in [*packages, *_course()]:
        if any(package.is_relative_to(folder) for folder in shown):
            options += ["--tmpfs", str(package), "--remount-ro", str(package)]
    return options


def _course() -> list[Path]:
    """Where the course's own packages lie: sources with solutions and hidden tests, and the library that has them."""
    import course_lib

    return [Path(__file__).resolve().parents[1], Path(course_lib.__file__).resolve().parent]


def _limited(limits: Limits) -> list[str]:
    """prlimit's command line: the kernel's limits on each process."""
    return [
        "/usr/bin/prlimit",
        f"--as={limits.address_space}",
        f"--fsize={limits.file_size}",
        f"--nofile={limits.open_files}",
        f"--cpu={max(1, round(limits.cpu) + 1)}",
        "--core=0",
        "--",
    ]
