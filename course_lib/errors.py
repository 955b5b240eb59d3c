"""One exception for everything a user can put right."""


class CourseError(Exception):
    """What was wrong, where, and what to do, in one sentence; the `course` command prints it without a traceback."""
