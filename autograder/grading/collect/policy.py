"""When an assignment is due, how often one may hand it in, and what being late costs: COURSE/policy.toml.

A time is never without a zone here: nbgrader takes one that it does not know for UTC, and reads +0200 as 200 seconds.
"""

import math
import tomllib
from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from course_lib.errors import CourseError
from course_lib.suggestions import did_you_mean

NAME = "policy.toml"
EXAMPLE = """timezone = "Europe/Berlin"

[lora]
due = "2026-12-01 23:59"       # in the zone above, unless it has one of its own: "2026-12-01 23:59+02:00"
attempts = 3                   # the first three count
keep = "latest"                # or "latest-in-time": a late attempt does not replace one in time
grace_minutes = 10
percent_per_day = 10           # of the points of the assignment, for each day that has begun
lowest_percent = 40            # a late submission loses no more than what is above this
closed_after_days = 7          # then it counts nothing

[lora.students.ann]            # an extension, and extra attempts
due = "2026-12-08 23:59"
attempts = 5
"""
KEEP = ("latest", "latest-in-time")


@dataclass(frozen=True)
class Rule:
    """What holds for one student in one assignment.

    due: in UTC; None where nothing is ever late. The others are in EXAMPLE.
    """

    due: datetime | None = None
    attempts: int | None = None
    keep: str = "latest"
    grace_minutes: float = 0.0
    percent_per_day: float = 0.0
    lowest_percent: float = 0.0
    closed_after_days: float = math.inf

    def late(self, handed_in: datetime) -> timedelta:
        """By how much a submission is late, beyond the time of grace; 0 where it is not."""
        if self.due is None or handed_in <= self.due + timedelta(minutes=self.grace_minutes):
            return timedelta(0)
        return handed_in - self.due

    def penalty(self, handed_in: datetime, score: float, most: float) -> float:
        """What a submission loses, in points.

        Args:
            handed_in: When.
            score: Its points.
            most: The points of the assignment.

        Returns:
            Points, at most those that it has.
        """
        late = self.late(handed_in)
        if not late:
            return 0.0
        days = late / timedelta(days=1)
        if days > self.closed_after_days:
            return score
        lost = most * self.percent_per_day / 100 * math.ceil(days)
        return min(lost, max(0.0, score - most * self.lowest_percent / 100))


class Policy:
    """The rules of a course.

    Args:
        tables: What the file says, as TOML has it. `timezone` is taken out of it.
        file: The file, for messages.

    Raises:
        CourseError: The file says something that is not a rule.
    """

    def __init__(self, tables: dict[str, Any], file: Path) -> None:
        self.file = file
        self.zone = zone(tables.pop("timezone", "UTC"), str(file))
        self.tables = tables
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise CourseError(f"{file}: {name!r} is not a table; the assignments' rules stand below [NAME].")
            students = table.get("students", {})
            if not isinstance(students, dict) or not all(isinstance(own, dict) for own in students.values()):
                raise CourseError(f"{file}: what holds for one student of {name} stands below [{name}.students.ID].")
            for student in students:
                self.rule(name, student)
            self.rule(name, "")

    def rule(self, assignment: str, student: str) -> Rule:
        """What holds for a student.

        Args:
            assignment: The assignment's name.
            student: The student.

        Returns:
            The assignment's rule with the student's own settings in it.

        Raises:
            CourseError: The file says something that is not a rule.
        """
        table = self.tables.get(assignment, {})
        own = table.get("students", {}).get(student, {})
        said = {name: value for name, value in table.items() if name != "students"} | own
        known = [field.name for field in fields(Rule)]
        for name in said:
            if name not in known:
                where = f"{self.file}: [{assignment}] has {name!r}"
                raise CourseError(f"{where}, and there are {', '.join(known)}.{did_you_mean(name, known)}")
        if "due" in said:
            said["due"] = moment(said["due"], self.zone, f"{self.file}: due of {assignment}")
        self._check(assignment, said)
        return Rule(**said)

    def notes(self, assignments: Collection[str]) -> list[str]:
        """What is probably a slip of the pen: rules for an assignment that does not exist hold for nobody.

        Args:
            assignments: The names of those that do.
        """
        return [
            f"{self.file} has rules for {name!r}, and there is no such assignment.{did_you_mean(name, assignments)}"
            for name in self.tables
            if name not in assignments
        ]

    def _check(self, assignment: str, said: dict[str, Any]) -> None:
        if said.get("keep", "latest") not in KEEP:
            raise CourseError(f"{self.file}: keep of {assignment} is {said['keep']!r}: say {' or '.join(KEEP)}.")
        for name in ("attempts", "grace_minutes", "percent_per_day", "lowest_percent", "closed_after_days"):
            value = said.get(name, 1)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= (name == "attempts"):
                raise CourseError(
                    f"{self.file}: {name} of {assignment} is {value!r}: it is a number, and not negative."
                )


def read_policy(state: Path) -> Policy | None:
    """The policy of a course; None where it has none.

    Args:
        state: The course's folder.

    Raises:
        CourseError: The file cannot be read, or says something that is not a rule.
    """
    file = state / NAME
    if not file.is_file():
        return None
    try:
        return Policy(tomllib.loads(file.read_text(encoding="utf-8-sig")), file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CourseError(f"{file} is not TOML ({error}).") from error


def zone(name: str, where: str) -> tzinfo:
    """A time zone by its name in the IANA database, such as Europe/Berlin.

    Args:
        name: The name.
        where: Who says it, for the message.

    Returns:
        The zone.

    Raises:
        CourseError: There is none of this name.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError, TypeError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise CourseError(
            f"{where}: there is no time zone {name!r}. Use a name such as Europe/Berlin or UTC."
        ) from error


def moment(said: object, default: tzinfo, where: str) -> datetime:
    """A moment in UTC.

    Args:
        said: A date and a time as text or as TOML has them, perhaps with an offset.
        default: The zone, where it has none of its own.
        where: Who says it, for the message.

    Returns:
        The moment, with the zone UTC.

    Raises:
        CourseError: It is not a moment: nonsense, or a date without a time.
    """
    found = said
    if isinstance(said, str):
        try:
            found = datetime.fromisoformat(said.strip()) if ":" in said else None
        except ValueError:
            found = None
    if not isinstance(found, datetime):
        raise CourseError(f"{where} is {str(said)!r}: write a date and a time, such as 2026-12-01 23:59.")
    if found.tzinfo is None:
        found = found.replace(tzinfo=default)
    return found.astimezone(UTC)
