"""Temporary folders that do not outlive a run for long: what a killed one has left is removed by the next."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def scratch_folder(kind: str) -> Iterator[tuple[Path, int]]:
    """An empty folder called course-KIND-RANDOM, for as long as the block takes.

    It is locked as long as a process has the file descriptor that comes with it. The system unlocks it when the last of
    them is gone, however it ended.

    Args:
        kind: A word.

    Returns:
        The folder, and the descriptor, for processes that go on writing there when this one is killed.
    """
    clear_what_killed_runs_left(kind)
    new = Path(tempfile.mkdtemp(prefix="course-new-"))
    folder = new.with_name(new.name.replace("course-new-", f"course-{kind}-", 1))
    held = os.open(new, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        new.rename(folder)  # from here on others look at it
        yield folder, held
    finally:
        shutil.rmtree(folder if folder.exists() else new, ignore_errors=True)
        os.close(held)


def clear_what_killed_runs_left(kind: str) -> None:
    """Remove the folders of a kind that are ours and that no process has any more.

    Args:
        kind: As in `scratch_folder`.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"course-{kind}-*"):
        with suppress(OSError):  # it is not a folder, is somebody else's, locked, or has just gone
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(held).st_uid == os.geteuid():
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)
