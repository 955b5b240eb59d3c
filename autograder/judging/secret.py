"""The secret of a course: a number that varies the random inputs of its hidden tests, so that nobody learns them."""

import os
import secrets
from pathlib import Path

NAME = "secret-seed.txt"


def secret_seed(state: Path) -> int:
    """The course's secret, which is made when it is first asked for. Only its owner can read the file.

    Args:
        state: The course's folder.
    """
    file = state / NAME
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return int(file.read_text())
    with os.fdopen(descriptor, "w") as made:
        made.write(f"{secrets.randbits(62)}\n")
    return int(file.read_text())
