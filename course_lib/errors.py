"""One exception for everything a user can put right."""


class CourseError(Exception):
    """What was wrong, where, and what to do, in one sentence; the `course` command prints it without a traceback."""


def first_line(error: BaseException) -> str:
    """What `error` says in its first line; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def printable(text: str) -> str:
    """Text from a stranger's file on one line of a terminal: escape sequences and line ends become question marks."""
    return "".join(c if c.isprintable() else "?" for c in text)
