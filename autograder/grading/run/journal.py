"""What is known of the submissions that are graded, so that an unchanged one is not graded again."""

import json
from collections.abc import Iterable
from pathlib import Path

from autograder.course import Assignment
from course_lib.files import write_json


class Journal:
    """A file with what is known of each student's submission.

    "digest" changes with the submission and with the assignment, "answers" with all of that but the tests, and "tests"
    has the digest of each test; "time" is a time that we wrote for it; "stopped" and "flagged" say why its run ended
    early or in part.

    Args:
        assignment: Of which assignment.
        state: The course's folder.
    """

    def __init__(self, assignment: Assignment, state: Path) -> None:
        self.file = state / "autograded" / f"graded-{assignment.name}.json"
        if not (state / "gradebook.db").is_file():  # a new term: nobody is graded
            self.file.unlink(missing_ok=True)
        known = json.loads(self.file.read_text()) if self.file.is_file() else {}
        # the file of an earlier version has the digests alone
        self.known = {s: {"digest": entry} if isinstance(entry, str) else entry for s, entry in known.items()}

    def get(self, student: str, what: str) -> str | None:
        """One thing that is known of a student's submission.

        Args:
            student: Whose it is.
            what: "digest", "answers", "tests", "time", "stopped" or "flagged".

        Returns:
            Its value; None where nothing is known.
        """
        return self.known.get(student, {}).get(what)

    def set(self, student: str, **values: str | None) -> None:
        """Note it down, whole at every moment.

        Args:
            student: Whose submission it is.
            values: What is known from now on; a value of None is forgotten.
        """
        if self._changed(student, values):
            write_json(self.file, self.known)

    def set_all(self, students: Iterable[str], **values: str | None) -> None:
        """The same for several students, with one writing of the file.

        Args:
            students: Whose submissions they are.
            values: What is known of each from now on.
        """
        if any([self._changed(student, values) for student in students]):
            write_json(self.file, self.known)

    def _changed(self, student: str, values: dict[str, str | None]) -> bool:
        before = self.known.get(student, {})
        kept = {name: value for name, value in (before | values).items() if value}
        if kept == before:
            return False
        self.known.pop(student, None)
        if kept:
            self.known[student] = kept
        return True
