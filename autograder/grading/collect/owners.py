"""Whose a file is, by the names that learning platforms give."""

import re
from dataclasses import dataclass

from autograder.grading.collect.archives import stem
from autograder.grading.collect.roster import Person

# First Last_1234_assignsubmission_file_, a folder; or, where folders are switched off, with the file's name behind it
MOODLE = re.compile(r"(?P<name>.+?)_(?P<id>\d+)_assignsubmission_(?:file|onlinetext)(?:_(?P<rest>.*))?")
# lastfirst_LATE_1234_5678_lora-2.ipynb: the user's number, the file's, and the attempt behind the student's own name
CANVAS = re.compile(r"(?P<name>[^_]+)(?:_LATE)?_(?P<id>\d+)_(?P<file>\d+)_(?P<rest>.+)")
# ann+lora+2026-12-01 22:59:00 UTC+5f3c, of nbgrader's exchange
EXCHANGE = re.compile(r"(?P<name>[^+]+)\+[^+]+\+\d{4}-\d\d-\d\d [^+]+(?:\+.*)?")
# ann-lora-20261201T225900Z.zip, of `course assignment submit --student ann`
SUBMITTED = re.compile(r"(?P<name>.+)-[\w.]+-\d{8}T\d{6}Z(?:\.zip)?")
NOT_A_LETTER = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Owner:
    """Whom a name names. key: the same for all files of a student. number: the platform's own, where it is that of the
    student and not of the submission."""

    key: str
    name: str
    number: str = ""


def owner_of(first: str) -> Owner:
    """Whom the first folder, or the file, names.

    Args:
        first: Its name.
    """
    if found := MOODLE.fullmatch(first):
        return Owner(found["name"], found["name"])
    if found := EXCHANGE.fullmatch(first):
        return Owner(found["name"], found["name"])
    if found := CANVAS.fullmatch(first):
        return Owner(f"{found['name']}_{found['id']}", found["name"], found["id"])
    if found := SUBMITTED.fullmatch(stem(first)):
        return Owner(found["name"], found["name"])
    return Owner(stem(first), stem(first))


def student_of(owner: Owner, people: dict[str, Person]) -> str | None:
    """The student on the roster; None where nobody, or more than one, is meant.

    Args:
        owner: Whom a name names.
        people: The roster by student.

    Returns:
        The student's name on the roster, or None.
    """
    if owner.name in people:
        return owner.name
    if owner.number:
        by_number = [person.student for person in people.values() if owner.number in (person.lms_id, person.sis_id)]
        if len(by_number) == 1:
            return by_number[0]
    wanted = owner.name.casefold()
    exact = [
        p.student for p in people.values() if wanted in (p.student.casefold(), p.email.casefold(), p.sis_id.casefold())
    ]
    named = exact or [p.student for p in people.values() if _letters(owner.name) in _spellings(p)]
    return named[0] if len(named) == 1 else None


def _spellings(person: Person) -> set[str]:
    """A person's name as one word, and with the last word first, as Canvas has it."""
    words = person.name.replace(",", " ").split()
    orders = [words, words[::-1], words[-1:] + words[:-1], words[1:] + words[:1]]
    return {_letters("".join(order)) for order in orders} - {""}


def _letters(text: str) -> str:
    return NOT_A_LETTER.sub("", text.casefold())
