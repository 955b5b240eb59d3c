"""What a person sees while a class is graded: a bar in a terminal, plain lines in a log."""

import sys
from collections.abc import Callable
from types import TracebackType

from course_lib.errors import printable


class Lines:
    """A line for each submission that is begun."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self.say = say

    def __enter__(self) -> "Lines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def started(self, student: str, number: int, total: int) -> None:
        """A submission is begun.

        Args:
            student: Whose it is.
            number: Which one it is, from 1.
            total: How many there are.
        """
        self.say(f"[{number}/{total}] {student}")

    def booked(self, student: str, total: int) -> None:
        """A submission is in the gradebook, or was given up. Lines say nothing of it.

        Args:
            student: Whose it is.
            total: How many there are.
        """
        return


class Bar(Lines):
    """A bar on standard error, above which the lines scroll."""

    def __init__(self, say: Callable[[str], object]) -> None:
        from tqdm import tqdm

        self.bar = tqdm(desc="grading", unit="submission", file=sys.stderr, leave=False, total=0, delay=0.01)
        super().__init__(lambda line: self._above(line, say))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def started(self, student: str, number: int, total: int) -> None:
        """Its name is beside the bar.

        Args:
            student: Whose submission it is.
            number: Which one it is, from 1.
            total: How many there are.
        """
        self.bar.total = total
        self.bar.set_postfix_str(printable(student)[:30])

    def booked(self, student: str, total: int) -> None:
        """The bar is longer by one.

        Args:
            student: Whose submission it is.
            total: How many there are.
        """
        self.bar.total = total
        self.bar.update()

    def _above(self, line: str, say: Callable[[str], object]) -> None:
        self.bar.clear()
        say(line)
        self.bar.refresh()


def progress(say: Callable[[str], object]) -> Lines:
    """A bar where standard error is a terminal, else lines.

    Args:
        say: Prints a line.
    """
    return Bar(say) if sys.stderr.isatty() else Lines(say)
