"""How a class did, part by part: what most got wrong is what the next lecture is about."""

import re
import statistics
from collections import Counter
from dataclasses import dataclass

from autograder.grading.gradebook.standing import Standing
from autograder.notebook import Part

MOST = 3  # failures that are named of a part
NUMBER = re.compile(r"[-+]?\d[\d.]*(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class PartStatistics:
    """One part over the class.

    graded: of how many students. mean: their points. full, none: how many have all of the points, and none of them.
    failures: the most common messages, numbers left out, and how often each came.
    """

    part: Part
    graded: int
    mean: float
    full: int
    none: int
    failures: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class ClassStatistics:
    """The whole assignment over the class.

    totals: of those who were graded in part at least. counts: how many of them are in each tenth of the points.
    """

    most: float
    totals: tuple[float, ...]
    counts: tuple[int, ...]
    parts: tuple[PartStatistics, ...]

    @property
    def mean(self) -> float:
        """The mean of the totals; 0 where there are none."""
        return statistics.mean(self.totals) if self.totals else 0.0

    @property
    def median(self) -> float:
        """Their median."""
        return statistics.median(self.totals) if self.totals else 0.0

    @property
    def spread(self) -> float:
        """Their standard deviation."""
        return statistics.pstdev(self.totals) if self.totals else 0.0


def class_statistics(parts: list[Part], standings: list[Standing]) -> ClassStatistics:
    """Count a class.

    Args:
        parts: Of the assignment.
        standings: One of each student.

    Returns:
        The class's figures, and those of each part.
    """
    most = sum(part.points for part in parts)
    totals = tuple(each.total for each in standings if each.total is not None)
    counts = [0] * 10
    for total in totals:
        counts[min(9, int(10 * total / most)) if most else 9] += 1
    return ClassStatistics(most, totals, tuple(counts), tuple(_of_part(part, standings) for part in parts))


def _of_part(part: Part, standings: list[Standing]) -> PartStatistics:
    points = [each.points[part.id] for each in standings if part.id in each.points]
    said = Counter(_kind(each.messages[part.id]) for each in standings if part.id in each.messages)
    return PartStatistics(
        part,
        len(points),
        statistics.mean(points) if points else 0.0,
        sum(each >= part.points for each in points),
        sum(each == 0 for each in points),
        tuple(said.most_common(MOST)),
    )


def _kind(message: str) -> str:
    """A message without its numbers, which differ from answer to answer that is wrong in the same way."""
    return NUMBER.sub("…", message)
