"""What a run depends on: versions, hardware, commit, and the cores, memory and environment that it may use."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

import course_lib

# The packages that decide a chapter's numbers or its figures.
PACKAGES = (
    "numpy",
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "safetensors",
    "gguf",
    "papermill",
    "matplotlib",
)


# Each of these keeps threads of its own: OpenMP (torch), MKL, OpenBLAS and Accelerate (NumPy), the tokenizers.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
)

CGROUP = Path("/sys/fs/cgroup")  # a container sees its own group here


def versions() -> dict[str, str]:
    """The versions of Python, of the course and of `PACKAGES`, as far as they are installed."""
    found = {"python": platform.python_version(), "course": course_lib.__version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict:
    """Processor, memory and GPUs. Nothing in it names the machine or its user."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None,
        "gpus": _gpus(),
    }


def usable_cores() -> int:
    """The cores that this process may run on: what the affinity allows, or fewer where a container has a quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, round(_cpu_quota(CGROUP) or cores)))


def _cpu_quota(group: Path) -> float | None:
    """How many cores' time the control group gets, version 2 or 1; None: no limit."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((group / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    try:
        return int(quota) / int(period) if int(quota) > 0 else None
    except ValueError:  # "max"
        return None


def usable_threads() -> int:
    """As many as there are usable cores, or fewer where OMP_NUM_THREADS says so (as `course run` does)."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(usable_cores(), int(limit)) if limit.isdecimal() and int(limit) else usable_cores()


def available_memory() -> int:
    """Bytes that new processes can use without swapping; inside a container or a Slurm job, what its limit leaves."""
    return min([psutil.virtual_memory().available, *_group_memory(CGROUP)])


def _group_memory(group: Path) -> list[int]:
    """What the control group's limit leaves, version 2 or 1; nothing where there is no limit."""
    names = {
        group: ("memory.max", "memory.current"),
        group / "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    }
    for folder, (limit, used) in names.items():
        try:
            return [max(0, int((folder / limit).read_text()) - int((folder / used).read_text()))]
        except (OSError, ValueError):  # no such file, or no limit ("max")
            continue
    return []


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Names and memory as the driver reports them; an empty list where there is no NVIDIA driver."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def git_commit(root: Path) -> str | None:
    """The commit that is checked out, with "+changes" if tracked files differ from it.

    Args:
        root: the clone.

    Returns:
        The commit. Outside git: what the variable COURSE_COMMIT says, which a container's build sets; None without it.
    """
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("COURSE_COMMIT") or None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()


def kernel_environment(home: Path, threads: int) -> dict[str, str]:
    """The environment of a headless kernel.

    Hashes are reproducible, the hub is asked only if the user said so, and nothing is written to the user's home.
    Figures must appear in the notebook, so MPLBACKEND and PYTHONSTARTUP are not passed on.

    Args:
        home: a folder for what Jupyter and IPython write.
        threads: the most threads that a library in the kernel may use. A lower number that the user has set stays.

    Returns:
        The variables, by name.
    """
    chosen = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
    private = {"IPYTHONDIR": str(home / "ipython"), "JUPYTER_RUNTIME_DIR": str(home / "runtime")}
    outside = {key: value for key, value in os.environ.items() if key not in ("MPLBACKEND", "PYTHONSTARTUP")}
    limits = {}
    for name in THREAD_VARIABLES:
        own = outside.get(name, "")
        limits[name] = str(min(threads, int(own)) if own.isdecimal() and int(own) else threads)
    return {**chosen, **outside, **limits, **private}
