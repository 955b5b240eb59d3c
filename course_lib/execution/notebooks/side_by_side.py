"""Which chapters run side by side: as many as there are cores and memory for, the longest first.

Two processes with two threads each on two cores run up to twenty times slower than one after the other, because their
threads wait for each other. So each of N chapters that run at a time gets an N-th of the cores, and no more.
"""

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from course_lib.errors import CourseError
from course_lib.execution.environment import available_memory, usable_cores
from course_lib.execution.notebooks.project import Chapter


@dataclass(frozen=True)
class Cost:
    """What a chapter takes at one profile, as the table `cost` in the profile says.

    Attributes:
        memory: bytes of the kernel at its peak. A chapter starts only where that much is left.
        seconds: how long it takes on one core. The longest chapter starts first, so that none is left alone at the end.
    """

    memory: float = 3e9
    seconds: float = 0.0

    @classmethod
    def of(cls, chapter: str, profile: dict) -> "Cost":
        """The cost of a chapter at one profile.

        Args:
            chapter: its id.
            profile: the content of the profile's file.

        Returns:
            The cost, which is a cautious guess where the profile does not say.
        """
        table = profile.get(chapter, {}).get("cost", {})
        return cls(1e9 * table.get("memory_gb", cls.memory / 1e9), table.get("seconds", cls.seconds))


def jobs_for(chapters: int, device: str) -> int:
    """How many chapters to run at a time.

    Args:
        chapters: how many there are.
        device: "cuda": they run one at a time, because they would share the GPU.

    Returns:
        One for each core, at most as many as there are chapters.
    """
    return 1 if device == "cuda" else max(1, min(chapters, usable_cores()))


def threads_for(jobs: int, profile_threads: int) -> int:
    """How many threads each chapter gets.

    Args:
        jobs: how many chapters run at a time.
        profile_threads: what the profile asks for, which is the most that a chapter gets.

    Returns:
        The chapter's share of the cores, at least 1.
    """
    return max(1, min(profile_threads, usable_cores() // jobs))


def refuse_circles(needs: Mapping[Chapter, Collection[Chapter]]) -> None:
    """Refuse chapters that would wait for each other for ever.

    Args:
        needs: which chapters each chapter waits for.

    Raises:
        CourseError: with one of the circles.
    """

    def follow(chapter: Chapter, before: tuple[Chapter, ...]) -> None:
        """Go along all that a chapter waits for, and stop where we have been before."""
        if chapter in before:
            circle = " -> ".join(each.id for each in (*before, chapter))
            raise CourseError(f"These chapters need each other in a circle: {circle}. Take one `needs` out.")
        for needed in needs.get(chapter, ()):
            follow(needed, (*before, chapter))

    for chapter in needs:
        follow(chapter, ())


class ChapterQueue:
    """Hands out chapters, the longest first, as long as there is memory for them.

    Args:
        costs: the chapters that are to run, and what each takes.
        memory: bytes to share out, by default those that are available now.
        needs: which chapters have to end before a chapter may start. Those that are not in `costs` count as ended.
            There must be no circle in it (see `refuse_circles`).
    """

    def __init__(
        self,
        costs: dict[Chapter, Cost],
        memory: float | None = None,
        needs: Mapping[Chapter, Collection[Chapter]] | None = None,
    ):
        self.costs, self.needs = costs, needs or {}
        self.memory = available_memory() if memory is None else memory
        self.waiting = sorted(costs, key=lambda chapter: -self._seconds_from(chapter))
        self.running: set[Chapter] = set()
        self.changed = threading.Condition()

    def take(self) -> Chapter | None:
        """The next chapter to run; blocks until one may start. None: all have been handed out.

        A chapter that needs more than there is runs alone: the estimate may be wrong, and waiting would not help.
        """
        with self.changed:
            while self.waiting:
                chapter = next(filter(self._may_start, self.waiting), None)
                if chapter is not None:
                    self.waiting.remove(chapter)
                    self.running.add(chapter)
                    return chapter
                self.changed.wait()
            return None

    def done(self, chapter: Chapter) -> None:
        """Give back the memory of a chapter that has ended."""
        with self.changed:
            self.running.discard(chapter)
            self.changed.notify_all()

    def clear(self) -> None:
        """Hand out nothing more."""
        with self.changed:
            self.waiting.clear()
            self.changed.notify_all()

    def _seconds_from(self, chapter: Chapter) -> float:
        """The time of a chapter and of the longest chain of chapters that wait for it."""
        waiting = [each for each in self.costs if chapter in self.needs.get(each, ())]
        return self.costs[chapter].seconds + max(map(self._seconds_from, waiting), default=0.0)

    def _may_start(self, chapter: Chapter) -> bool:
        """Whether all that the chapter needs has ended, and its memory is free."""
        if any(needed in self.running or needed in self.waiting for needed in self.needs.get(chapter, ())):
            return False
        return not self.running or self._total([*self.running, chapter]) <= self.memory

    def _total(self, chapters: Iterable[Chapter]) -> float:
        return sum(self.costs[chapter].memory for chapter in chapters)
