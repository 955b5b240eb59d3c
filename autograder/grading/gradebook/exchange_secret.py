"""The secret of a submission, by which nbgrader's exchange finds its feedback.

`nbgrader submit` writes it, and `nbgrader release_feedback` names each page after it. That command ends at the first
page without one, and nobody behind it gets theirs.
"""

from pathlib import Path
from secrets import token_hex

from course_lib.files import write_whole

NAME = "submission_secret.txt"
LONGEST = 1000  # characters; nbgrader writes 128


def hand_on(submitted: Path, autograded: Path) -> None:
    """Put the secret beside the autograded notebook, from where nbgrader takes it to the feedback.

    A submission that came another way than through the exchange gets a secret of its own.

    Args:
        submitted: The course's submitted/STUDENT/NAME.
        autograded: The course's autograded/STUDENT/NAME.
    """
    received, there = _secret(submitted / NAME), _secret(autograded / NAME)
    if there and there == (received or there):
        return
    write_whole(autograded / NAME, received or token_hex(64))


def _secret(file: Path) -> str:
    """What a file says; "" where there is none, or what is there is not a secret of nbgrader's."""
    if not file.is_file() or file.stat().st_size > LONGEST:
        return ""
    return file.read_bytes().decode("ascii", "replace")
