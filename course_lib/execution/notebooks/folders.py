"""The hidden folders of a run: who made one, whether its maker still runs, and how a finished one takes its place.

Several nodes may share a run's folder. A process id means something on one host only, and two hosts may use the same
one, so a hidden folder is called `.partial-HOST-PID-RANDOM-CHAPTER`. Nobody can look at another host's processes:
its folders count as in use until nothing in them has changed for longer than any job may take.
"""

import errno
import os
import re
import secrets
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path

import psutil

# The longest time limit of a queue that we know is 48 hours, and one cell may take all of it.
OLD = 72 * 3600.0
NAMED = re.compile(r"\.(?P<kind>partial|old)-(?P<host>\w+)-(?P<pid>\d+)-[0-9a-f]{8}-(?P<chapter>.+)")


def host() -> str:
    """This host's name, in letters, digits and underscores."""
    return re.sub(r"\W", "_", socket.gethostname()) or "unknown"


def hidden_folder(out: Path, kind: str, chapter: str) -> Path:
    """A name that no other run uses; nothing is made.

    Args:
        out: the folder of the results.
        kind: "partial": a result in the making. "old": one that is being replaced.
        chapter: its id.

    Returns:
        The path.
    """
    return out / f".{kind}-{host()}-{os.getpid()}-{secrets.token_hex(4)}-{chapter}"


def put_in_place(new: Path, final: Path) -> None:
    """Rename a finished folder to its final name; what was there goes.

    Args:
        new: the finished folder.
        final: its place, in the same parent folder.

    Raises:
        OSError: the new folder cannot be renamed. What was there is put back.
    """
    while True:
        old = hidden_folder(final.parent, "old", final.name)
        with suppress(FileNotFoundError):
            os.replace(final, old)
        try:
            os.replace(new, final)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another run came between the two renames
                shutil.rmtree(old, ignore_errors=True)
                continue
            with suppress(OSError):
                os.replace(old, final)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return


def clear_what_killed_runs_left(out: Path) -> None:
    """Remove the hidden folders of runs that are gone, and put back an old result whose replacement never came."""
    for folder in list(out.iterdir()):
        named = NAMED.fullmatch(folder.name)
        if not named or _in_use(folder, named["host"], int(named["pid"])):
            continue
        if named["kind"] == "old" and not (out / named["chapter"]).exists():
            with suppress(OSError):  # another run does the same at this moment
                os.replace(folder, out / named["chapter"])
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _in_use(folder: Path, owner: str, pid: int) -> bool:
    """Whether the process that made a folder may still run."""
    changed = _last_change(folder)
    if owner != host():
        return time.time() - changed < OLD
    try:
        # A process that began after the last change has got the number of one that is gone.
        return pid != os.getpid() and psutil.Process(pid).create_time() <= changed + 1
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # it runs, and belongs to somebody else
        return True


def _last_change(folder: Path) -> float:
    """When the folder or anything in it was last written; 0 if it is gone."""
    times = [0.0]
    for path in (folder, *folder.rglob("*")):
        with suppress(OSError):
            times.append(path.lstat().st_mtime)
    return max(times)
