"""What `course run` shows while it runs: bars in a terminal, plain lines in a log.

Both are told the same things. `Lines` says each cell as it begins, so that the log of a run that was killed names the
cell. `Bars` has one bar for each chapter that is running, with its cell, and one for the whole run, and prints a line
only when a chapter ends.
"""

import os
import threading
from collections.abc import Callable
from typing import Any, TextIO

from course_lib.execution.notebooks.results import Result

TICK_S = 1.0  # a long cell says nothing, but its clock goes on
WIDTH_OF_CELL = 40


class Lines:
    """One line for each cell.

    Args:
        say: prints a line.
    """

    def __init__(self, say: Callable[[str], None] = print):
        self.say = say

    def begin(self, chapters: int) -> None:
        """So many chapters are going to be executed."""

    def cell(self, chapter: str, cell: int, cells: int, seconds: float, line: str) -> None:
        """A cell begins.

        Args:
            chapter: its chapter's id.
            cell: its number, from 1.
            cells: the number of the last one.
            seconds: since the chapter began.
            line: the cell's first line.
        """
        self.say(f"{chapter} [{cell:>2}/{cells}] {seconds:6.1f} s  {line[:70]}")

    def end(self, result: Result) -> None:
        """A chapter has ended."""
        self.say(f"{result.chapter}  {result.status} after {result.seconds:.0f} s, {result.memory / 1e9:.2f} GB")

    def close(self) -> None:
        """Nothing more will come."""


class Bars(Lines):
    """Live bars in a terminal.

    Args:
        file: the terminal.
    """

    def __init__(self, file: TextIO):
        super().__init__(self._print)
        self.file, self.whole = file, None
        self.bars: dict[str, Any] = {}
        self.lock = threading.RLock()
        self.over = threading.Event()

    def begin(self, chapters: int) -> None:
        """Show the bar of the whole run, and let its clock tick."""
        self.whole = self._bar(chapters, "chapters", "{desc:16} {n_fmt}/{total_fmt} |{bar:20}| {elapsed}")
        threading.Thread(target=self._tick, daemon=True).start()

    def cell(self, chapter: str, cell: int, cells: int, seconds: float, line: str) -> None:
        """Move the chapter's bar, which appears with its first cell.

        Args:
            chapter: its chapter's id.
            cell: its number, from 1.
            cells: the number of the last one.
            seconds: since the chapter began; the bar has a clock of its own.
            line: the cell's first line.
        """
        with self.lock:
            if chapter not in self.bars:
                layout = "{desc:16} {n_fmt}/{total_fmt} |{bar:20}| {elapsed} {postfix}"
                self.bars[chapter] = self._bar(cells, chapter, layout)
            bar = self.bars[chapter]
            bar.n = cell - 1  # this one has only begun
            bar.set_postfix_str(line[:WIDTH_OF_CELL], refresh=True)

    def end(self, result: Result) -> None:
        """Take the chapter's bar away, and leave a line in its place."""
        with self.lock:
            if bar := self.bars.pop(result.chapter, None):
                bar.close()
            super().end(result)
            if self.whole is not None:
                self.whole.update(1)

    def close(self) -> None:
        """Take all bars away."""
        self.over.set()
        with self.lock:
            for bar in (*self.bars.values(), self.whole):
                if bar is not None:
                    bar.close()
            self.bars, self.whole = {}, None

    def _bar(self, total: int, name: str, layout: str) -> Any:
        from tqdm import tqdm

        return tqdm(
            total=total, desc=name, bar_format=layout, leave=False, file=self.file, mininterval=0, dynamic_ncols=True
        )

    def _print(self, line: str) -> None:
        from tqdm import tqdm

        with self.lock:
            tqdm.write(line, file=self.file)

    def _tick(self) -> None:
        while not self.over.wait(TICK_S):
            with self.lock:
                for bar in (*self.bars.values(), self.whole):
                    if bar is not None:
                        bar.refresh()


def progress_for(file: TextIO, say: Callable[[str], None]) -> Lines:
    """Bars where somebody looks on, lines everywhere else: in a file, a pipe, a CI.

    Args:
        file: where the progress goes.
        say: prints a line there.

    Returns:
        What the runner tells its events to.
    """
    live = file.isatty() and os.environ.get("TERM") != "dumb"
    return Bars(file) if live else Lines(say)
