"""Which build of torch to install: a decision that nobody is asked about.

On Linux, pip's own choice brings several GB of CUDA libraries along. A machine without an NVIDIA GPU has no use for
them, so it gets the CPU build: pip's own where that is one (on macOS, and where pip is set up with such an index), else
the one from PyTorch's public wheel index. Where that index cannot be reached, pip's build is taken, and its size is
said before the download. TORCH_INDEX names another index, TORCH=cpu or TORCH=cuda decides for who knows better.

`bootstrap.py`, `hosted.py` and the workflows load this file by its path: standard library only, 3.6 syntax.
"""

import json
import os
import shutil
import subprocess
import sys
import typing
import urllib.error
import urllib.request

# The one place that knows PyTorch's index of CPU wheels; the variable TORCH_INDEX takes its place.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA_DOWNLOAD_GB = 3.0  # torch 2.13 with its nvidia packages, where the index does not tell sizes
CUDA_DISK_GB = 8.0  # the same, unpacked
PATIENCE_S = 15  # for an index that may not be reachable
Ask = typing.Callable[[str], "list | None"]


class Choice:
    """A build of torch.

    Args:
        index: the URL to install from, or "" for pip's own.
        why: one line for the log.
        needed_gb: the room that it takes on the disk, where that is more than set-up has made sure of.
    """

    def __init__(self, index: str, why: str, needed_gb: float = 0.0) -> None:
        self.index, self.why, self.needed_gb = index, why, needed_gb


def choose(requirement: str, wish: str, index: str, wants_cuda: bool, ask: "Ask") -> Choice:
    """Decide by what was wished for, by what the machine has, and by what pip and the index answer.

    Args:
        requirement: such as "torch==2.13.0".
        wish: the variable TORCH: "", "cpu" or "cuda".
        index: the variable TORCH_INDEX, or "".
        wants_cuda: whether CUDA is of use here (see `wants_cuda_here`).
        ask: a function of an index ("": what pip is set up with). It says what pip would install from there, as a list
            of (name, URL) pairs, or None where it gets no answer.

    Returns:
        The index to install torch from, with the reason.

    Raises:
        ValueError: the wish is unknown, or cannot be met.
    """
    if wish not in ("", "cpu", "cuda"):
        raise ValueError(f"TORCH={wish} is not possible: leave it out, or choose cpu or cuda.")
    if index:
        return Choice(index, f"{requirement} from {index}, as TORCH_INDEX says")
    if wish == "cuda":
        return Choice("", f"pip's own build of {requirement}, as TORCH=cuda says", CUDA_DISK_GB)
    if not wish and wants_cuda:
        return Choice("", f"pip's own build of {requirement}: CUDA is of use on this machine", CUDA_DISK_GB)
    if not wish and not sys.platform.startswith("linux"):
        return Choice("", f"pip's own build of {requirement}, which is for the CPU on this system")
    packages = ask("")
    if packages is not None and not cuda_packages(packages):
        return Choice("", f"pip's own build of {requirement}, which is for the CPU")
    if ask(CPU_INDEX) is not None:
        return Choice(CPU_INDEX, f"the CPU build of {requirement} from {CPU_INDEX}")
    if wish == "cpu":
        raise ValueError(
            f"TORCH=cpu asks for the CPU build of {requirement}, and {CPU_INDEX} did not answer. Check the network or "
            "proxy, or name an index that has it: TORCH_INDEX=URL."
        )
    if packages is None:
        return Choice("", f"pip's own build of {requirement}: neither pip's index nor {CPU_INDEX} answered")
    return Choice(
        "",
        f"pip's own build of {requirement} with CUDA, {download_size(packages)} to download, because {CPU_INDEX} "
        "cannot be reached",
        CUDA_DISK_GB,
    )


def wants_cuda_here() -> bool:
    """Whether an NVIDIA driver is present."""
    return bool(shutil.which("nvidia-smi")) or os.path.exists("/proc/driver/nvidia/version")


def cuda_packages(packages: list) -> list:
    """Names of the CUDA packages among (name, URL) pairs."""
    return sorted(name for name, _ in packages if name.lower().startswith("nvidia-"))


def download_size(packages: list) -> str:
    """What the files weigh, as their server says; about so much where it does not."""
    total = 0
    for _, url in packages:
        try:
            head = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(head, timeout=PATIENCE_S) as answer:
                total += int(answer.headers["Content-Length"])
        except (OSError, ValueError, TypeError):
            return f"about {CUDA_DOWNLOAD_GB:.0f} GB"
    return f"{total / 1e9:.1f} GB"


def asker(pip: list, requirement: str, **options: "typing.Any") -> "Ask":
    """The `ask` of `choose`: pip itself, in a dry run.

    Args:
        pip: the words that start it, before "install".
        requirement: what it is asked about.
        options: of subprocess.run.

    Returns:
        The function.
    """

    def ask(index: str) -> "list | None":
        """What pip would take from `index` ("": what it is set up with); None where it gets no answer."""
        command = pip + ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", requirement]
        if index:  # an index that cannot be reached must not hold set-up up for minutes
            command += ["--index-url", index, "--no-deps", "--retries", "1", "--timeout", str(PATIENCE_S)]
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, **options
        )
        if answer.returncode:
            return None
        return [
            (item["metadata"]["name"], item.get("download_info", {}).get("url", ""))
            for item in json.loads(answer.stdout.decode("utf-8")).get("install", [])
        ]

    return ask
