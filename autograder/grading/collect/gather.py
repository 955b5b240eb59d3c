"""Collects what students handed in, from folders, archives and archives of archives, into the course.

Every attempt is kept in COURSE/collected/NAME/STUDENT, and the one that counts is put where nbgrader looks for it.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from autograder import course, notebook
from autograder.course import Assignment
from autograder.grading.collect import times
from autograder.grading.collect.archives import DEEPEST, MOST_FILE, Found, Refused, is_archive, stem, unpacked
from autograder.grading.collect.owners import owner_of, student_of
from autograder.grading.collect.policy import Policy, Rule
from autograder.grading.collect.roster import Person
from autograder.recognise import assignment_of
from course_lib.errors import CourseError, printable
from course_lib.files import write_whole

FORM = "%Y%m%dT%H%M%SZ"
LONGEST = 100  # characters of a student's folder


@dataclass(frozen=True)
class Attempt:
    """One notebook that a student handed in. late: beyond the time of grace, in seconds."""

    time: datetime
    path: Path
    late: float = 0.0


@dataclass
class Collected:
    """What came of it. chosen: by student, the attempt that counts. attempts: how many there are. not_counted: beyond
    those that are allowed. unknown: not on the roster. missing: on it, without an attempt. refused: why a file was not
    taken, by its name."""

    chosen: dict[str, Attempt] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    not_counted: dict[str, int] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def gather(
    assignment: Assignment, sources: list[Path], state: Path, people: dict[str, Person], policy: Policy | None
) -> Collected:
    """Collect an assignment. Nothing in the sources is changed, and what was collected before is kept.

    Args:
        assignment: The assignment; notebooks of others are left where they are.
        sources: Folders and archives.
        state: The course's folder.
        people: The roster; where it is empty, everybody is known by the name that there is.
        policy: The course's; None where it has none.

    Returns:
        Which attempt of each student counts, and what was not taken.

    Raises:
        CourseError: A source is absent.
    """
    found, rules = Collected(), policy or Policy({}, state)
    known = [assignment, *(other for other in course.assignments(state).values() if other.name != assignment.name)]
    store = state / "collected" / assignment.name
    unknown = set()
    for source in sources:
        times_of: dict[tuple[str, ...], datetime] = {}
        entries = list(_files(source, rules.zone, found.refused))
        for entry in entries:
            if entry.path[-1] == times.NAME and (
                said := times.parsed(entry.data[:200].decode("utf-8", "replace").strip())
            ):
                times_of[entry.path[:-1]] = said
        for entry in entries:
            notebook_file = entry.path[-1].lower().endswith(".ipynb")
            if not notebook_file or not _is_ours(entry, assignment, known, found.refused):
                continue
            student = _student(entry, people)
            if student is None:
                unknown.add(printable(owner_of(entry.path[0]).name))
                continue
            time = _time_of(entry, times_of)
            _keep(store / student, time, entry.data)
    found.unknown = sorted(unknown)
    for folder in sorted(store.iterdir()) if store.is_dir() else []:
        _choose(found, folder, rules.rule(assignment.name, folder.name))
    for student, attempt in found.chosen.items():
        _place(state, assignment, student, attempt)
    found.missing = sorted(people.keys() - found.chosen.keys())
    return found


def _files(source: Path, zone: tzinfo, refused: dict[str, str]) -> Iterator[Found]:
    """All files of a source; those in an archive have its name, without the ending, as their first folder, unless it
    is the source itself and holds a class."""
    if not source.exists():
        raise CourseError(f"There is no {source} to collect from.")
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            parts = path.relative_to(source).parts
            if any(part.startswith(".") or part == "__MACOSX" for part in parts) or path.is_dir():
                continue
            if path.is_symlink() or not path.is_file():
                refused[str(path)] = "is a link or a device"
            elif path.stat().st_size > (MOST_FILE if path.suffix == ".ipynb" else 32 * MOST_FILE):
                refused[str(path)] = "is larger than anybody's work"
            elif path.suffix.lower() in (".ipynb", ".txt") or is_archive(path.name):
                changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                yield from _opened(Found(_plain(parts), path.read_bytes(), changed), zone, refused, 0)
        return
    if not is_archive(source.name):
        raise CourseError(f"{source} is neither a folder nor an archive (.zip, .tar, .tar.gz): name one of these.")
    try:
        entries = unpacked(source.name, source.read_bytes(), zone)
    except Refused as error:
        raise CourseError(f"The archive {source} {error}, so nothing was taken from it.") from error
    for entry in entries:
        inside = _plain(entry.path)
        if inside and inside[0] == "submitted":  # nbgrader's own folder
            inside = inside[1:]
        if inside and not any(part.startswith(".") or part == "__MACOSX" for part in inside):
            yield from _opened(Found(inside, entry.data, entry.time), zone, refused, 1)


def _opened(entry: Found, zone: tzinfo, refused: dict[str, str], depth: int) -> Iterator[Found]:
    """A file, or what is in it where it is an archive. One of a student that is refused costs nobody else a thing."""
    if not is_archive(entry.path[-1]):
        yield entry
        return
    name = printable("/".join(entry.path))
    if depth >= DEEPEST:
        refused[name] = f"lies in over {DEEPEST} archives"
        return
    try:
        for inner in unpacked(entry.path[-1], entry.data, zone, most=8 * MOST_FILE):
            if inner.path and not any(part.startswith(".") or part == "__MACOSX" for part in inner.path):
                whose = (*entry.path[:-1], stem(entry.path[-1]))
                yield from _opened(
                    Found((*whose, *_plain(inner.path)), inner.data, inner.time), zone, refused, depth + 1
                )
    except Refused as error:
        refused[name] = str(error)


def _plain(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The parts of a path without control characters."""
    return tuple(printable(part) for part in parts)


def _is_ours(entry: Found, assignment: Assignment, known: list[Assignment], refused: dict[str, str]) -> bool:
    """Whether the notebook is this assignment. Where it cannot be read, it is by its name, and grading says why."""
    with tempfile.NamedTemporaryFile(suffix=".ipynb") as file:
        file.write(entry.data)
        file.flush()
        try:
            which = assignment_of(notebook.read(Path(file.name)), known)
        except CourseError:
            return assignment.name in entry.path or assignment.name in entry.path[-1]
    if which is None:
        refused[printable("/".join(entry.path))] = "is none of the course's assignments"
    return which is not None and which.name == assignment.name


def _student(entry: Found, people: dict[str, Person]) -> str | None:
    """The name of the student's folder; None where there is nobody of the name."""
    owner = owner_of(entry.path[0])
    if people:
        return student_of(owner, people)
    key = owner.key.replace("/", "_").strip(". ")[:LONGEST]
    return key or None


def _time_of(entry: Found, said: dict[tuple[str, ...], datetime]) -> datetime:
    """What a timestamp.txt beside the notebook or above it says, else when the file was changed."""
    for depth in range(len(entry.path) - 1, 0, -1):
        if entry.path[:depth] in said:
            return said[entry.path[:depth]]
    return entry.time or datetime.now(UTC)


def _keep(folder: Path, time: datetime, data: bytes) -> None:
    """Store an attempt, once: the same notebook in another download is the same attempt, at the earliest time."""
    digest = hashlib.sha256(data).hexdigest()[:16]
    earlier = list(folder.glob(f"*-{digest}.ipynb"))
    moment = f"{time:{FORM}}"
    if any(path.name.split("-")[0] <= moment for path in earlier):
        return
    write_whole(folder / f"{moment}-{digest}.ipynb", data)
    for path in earlier:
        path.unlink()


def _choose(found: Collected, folder: Path, rule: Rule) -> None:
    """The attempt that counts, of all that a student has made so far."""
    attempts = []
    for path in sorted(folder.glob("*Z-*.ipynb")):
        time = datetime.strptime(path.name.split("-")[0], FORM).replace(tzinfo=UTC)
        attempts.append(Attempt(time, path, rule.late(time).total_seconds()))
    if not attempts:
        return
    counted = attempts[: int(rule.attempts)] if rule.attempts is not None else attempts
    in_time = [attempt for attempt in counted if not attempt.late]
    found.chosen[folder.name] = (in_time or counted)[-1] if rule.keep == "latest-in-time" else counted[-1]
    found.attempts[folder.name] = len(counted)
    if len(attempts) > len(counted):
        found.not_counted[folder.name] = len(attempts) - len(counted)


def _place(state: Path, assignment: Assignment, student: str, attempt: Attempt) -> None:
    """Put it where nbgrader and `course grade` look; what was there and was not collected is kept beside it."""
    place = state / "submitted" / student / assignment.name / assignment.path.name
    data = attempt.path.read_bytes()
    earlier = place.read_bytes() if place.is_file() else None
    if earlier is not None and earlier != data:
        digest = hashlib.sha256(earlier).hexdigest()[:16]
        if not list(attempt.path.parent.glob(f"*-{digest}.ipynb")):
            place.replace(place.with_name(f"{place.name}.until-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"))
    if earlier != data:
        write_whole(place, data)
    write_whole(place.with_name(times.NAME), attempt.time.strftime(times.FORMAT))
