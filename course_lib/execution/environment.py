"""What a run depended on: versions, hardware, commit."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import course_lib

# Those that decide a chapter's numbers or its figures.
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


def versions() -> dict[str, str]:
    """Python, the course and the packages that decide its numbers."""
    found = {"python": platform.python_version(), "course": course_lib.__version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict:
    """Processor, memory and GPUs; nothing that names the machine or its user."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None,
        "gpus": _gpus(),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Names and memory as the driver tells them; empty where there is no NVIDIA driver."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def git_commit(root: Path) -> str | None:
    """The commit that is checked out, with "+changes" where tracked files differ from it; None outside git."""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()


def kernel_environment(home: Path) -> dict[str, str]:
    """The environment of a headless kernel: reproducible hashes, no hub unless asked for, nothing written to HOME.

    Figures must appear in the notebook, so a MPLBACKEND from outside does not count, nor does a PYTHONSTARTUP file.
    """
    chosen = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
    private = {"IPYTHONDIR": str(home / "ipython"), "JUPYTER_RUNTIME_DIR": str(home / "runtime")}
    outside = {key: value for key, value in os.environ.items() if key not in ("MPLBACKEND", "PYTHONSTARTUP")}
    return {**chosen, **outside, **private}
