"""What the first cell of a chapter's Colab copy runs: the course into the running Python, and the profile to use.

The copies are written by course_lib/publishing/colab.py. What is installed is what chapters import (`EXTRAS`) and not
the extra `book`, whose Jupyter packages would take the place of those that the kernel runs on. A second run finds
everything installed and takes seconds. Standard library only.
"""

import os
import subprocess
import sys
from importlib import metadata

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
EXTRAS = "torch,data,serve,notebooks"
USABLE = "import torch; print('gpu' if torch.cuda.is_available() else 'cpu')"
STAMP = "course-installed"  # in the Python's own folder: a new machine has a new one


def prepare() -> str:
    """Install the course unless that was done, make it importable, and go to the folder of the chapters.

    Returns:
        The profile: "gpu" or "cpu".

    Raises:
        RuntimeError: pip failed, or this kernel has already imported a package that now has another version.
    """
    stamp = os.path.join(sys.prefix, STAMP)
    if not os.path.exists(stamp):
        before = versions()
        print("Installing the course with its pinned packages: this takes some minutes.", flush=True)
        script = os.path.join(HERE, "hosted.py")
        done = subprocess.run([sys.executable, script, EXTRAS], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            said = done.stdout.decode("utf-8", "replace").strip()
            raise RuntimeError(f"{said[-3000:]}\nThe course could not be installed; pip's messages are above.")
        with open(stamp, "w", encoding="utf-8") as file:
            file.write(ROOT + "\n")
        if stale := imported_before(before, versions()):
            raise RuntimeError(
                f"Everything is installed, but this session still has the old {', '.join(stale)} in memory. Choose "
                "Runtime > Restart session and run all."
            )
    if ROOT not in sys.path:  # what pip installed as editable is found by Pythons that start later
        sys.path.insert(0, ROOT)
    chosen = profile()
    os.chdir(os.path.join(ROOT, "notebooks"))
    print(f"The course is installed. This chapter runs with the profile {chosen!r}.")
    return chosen


def versions() -> "dict[str, str]":
    """The version of each installed package, by name."""
    return {each.metadata["Name"]: each.version for each in metadata.distributions()}


def imported_before(before: "dict[str, str]", after: "dict[str, str]") -> "list[str]":
    """Packages that this Python has imported in a version that is no longer the installed one.

    Args:
        before: versions by name, when it began.
        after: the same, now.

    Returns:
        Their names in order.
    """
    changed = {name for name, version in before.items() if after.get(name) != version}
    # A name with an underscore (setuptools' `_distutils_hack`) was imported by a .pth file and not by the reader.
    loaded = {name.partition(".")[0] for name in sys.modules if not name.startswith("_")}
    return sorted({name for module, names in modules().items() if module in loaded for name in names} & changed)


def modules() -> "dict[str, list[str]]":
    """Packages by the name of the module that they bring."""
    return dict(metadata.packages_distributions())


def profile() -> str:
    """Ask the installed torch, in a process of its own, whether it can use a GPU here."""
    answer = subprocess.run([sys.executable, "-c", USABLE], capture_output=True)
    found = answer.stdout.decode("utf-8").strip()
    if answer.returncode or found not in ("gpu", "cpu"):
        said = answer.stderr.decode("utf-8", "replace").strip()
        raise RuntimeError(
            f"{said[-2000:]}\nThe installed torch does not start. Choose Runtime > Disconnect and delete."
        )
    return found
