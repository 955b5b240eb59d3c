"""The instructor's grading: nbgrader's autograde over a class, where one odd submission costs nobody else anything.

Judged assignments run in a sandbox, and the judge decides (`autograder.judging`). The others run with our rights, and
their tests in the submission's own process: grade only what you would run.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from autograder import notebook
from autograder.configuration import outdated
from autograder.course import Assignment
from autograder.grading import gradebook, times
from autograder.grading.collect import Submission
from autograder.grading.process import NbgraderProcess
from autograder.grading.report import Grade, write_csv
from autograder.judging.judge import is_judged
from autograder.judging.results import NO_SANDBOX
from autograder.notebook import Notebook
from autograder.rebuild import rebuild
from autograder.sandbox import bubblewrap
from course_lib.errors import CourseError
from course_lib.files import write_json, write_whole


def grade(
    assignment: Assignment,
    submissions: dict[str, Submission],
    state: Path,
    *,
    force: bool = False,
    sandbox: bool = True,
    say: Callable[[str], object] = print,
) -> list[Grade]:
    """Grade each submission into the gradebook in `state`; writes autograded/, feedback/ and grades-NAME.csv there.

    It begins with a note where the course's `nbgrader_config.py` is older than this version of the course.

    Each submission is rebuilt first (`rebuild`) in a temporary folder: the student's file is only read. A submission
    that cannot be graded has its problem written down and stops nobody else. One that did not change since it was
    graded keeps its grade. A run that was killed is taken up where it stopped.

    Args:
        assignment: The assignment; its source is copied into `state` at the first grading.
        submissions: By student, as `collect.find_submissions` finds them.
        state: The course's folder, where nbgrader has its gradebook.
        force: Grade again also what did not change.
        sandbox: False to run also judged submissions with our own rights; each report says so.
        say: Called with each line of progress.

    Returns:
        One grade per submission, in their order.

    Raises:
        CourseError: nbgrader refuses the assignment, or the sandbox that it needs is not there.
    """
    assignment = placed(assignment, state)
    with NbgraderProcess(state, assignment.name) as nbgrader, tempfile.TemporaryDirectory(prefix="course-grade-") as at:
        if note := outdated(state):
            say(f"note: {note}")
        say(f"preparing {assignment.name}")
        template = _released(assignment, nbgrader, state)
        judged = is_judged(template)
        if judged and sandbox:
            bubblewrap.require()
        run = _Run(assignment, template, state, Path(at), Journal(assignment, state), sandbox or not judged)
        for submission in submissions.values():
            run.stage(submission)
        run.autograde(nbgrader, force, say)
        grades = [run.grade_of(submission) for submission in submissions.values()]
    write_csv(state / f"grades-{assignment.name}.csv", assignment, grades)
    return grades


def placed(assignment: Assignment, state: Path) -> Assignment:
    """The assignment as this course has it: its own copy, so that an update of the package changes nothing in a term.

    Args:
        assignment: The assignment as the package has it, which is copied at the first grading.
        state: The course's folder.

    Returns:
        The assignment that lies in the course's `source` folder.
    """
    own = state / "source" / assignment.name / assignment.path.name
    if not own.is_file():
        write_whole(own, assignment.path.read_bytes())
    return Assignment(assignment.name, own)


def _released(assignment: Assignment, nbgrader: NbgraderProcess, state: Path) -> Notebook:
    """The release, made anew; nbgrader refuses, say, a changed set of parts once there are grades."""
    for event in nbgrader.ask(task="release"):
        raise CourseError(f"nbgrader could not release {assignment.name}: {event['error']}")
    return notebook.read(state / "release" / assignment.name / assignment.path.name)


class Journal:
    """What is known of the submissions that are graded, in a file: their digests, so that an unchanged one is not
    graded again; the times that we wrote for them; and why the run of one ended early or in part."""

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
            what: "digest", "time", "stopped" or "flagged".

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
        entry = self.known.pop(student, {}) | values
        if kept := {name: value for name, value in entry.items() if value}:
            self.known[student] = kept
        write_json(self.file, self.known)


@dataclass
class _Run:
    """One grading of a class."""

    assignment: Assignment
    template: Notebook
    state: Path
    staged: Path  # a temporary folder in nbgrader's layout
    journal: Journal
    sandbox: bool = True  # False where a judged assignment is graded without it
    notes: dict[str, str] = field(default_factory=dict)  # of the students who are staged
    problems: dict[str, str] = field(default_factory=dict)

    def stage(self, submission: Submission) -> None:
        """Lay a rebuilt submission out as nbgrader expects it, with the time it was handed in; or note what is wrong
        with it."""
        student, path = submission.student, submission.path
        if path is None:
            self.problems[student] = submission.problem
            return
        try:
            whole = rebuild(self.template, notebook.read(path))
        except CourseError as error:
            self.problems[student] = str(error)
            return
        target = self._place(self.staged, student)
        notebook.write(whole, target)
        ours = self.journal.get(student, "time")
        time = times.handed_in(path, submission.folder, ours)
        (target.parent / times.NAME).write_text(time.text)
        self._collect(student, path)
        times.publish(time, self._place(self.state / "submitted", student).parent, ours)
        self.journal.set(student, time=time.text if time.guessed else None)
        self.notes[student] = "; ".join(filter(None, [submission.note, time.note]))

    def autograde(self, nbgrader: NbgraderProcess, force: bool, say: Callable[[str], object]) -> None:
        """Have nbgrader grade what is staged and not graded yet, and write everybody's feedback.

        Args:
            nbgrader: The process in which nbgrader runs.
            force: Grade again also what did not change.
            say: Called with each line of progress.
        """
        digests = {student: self._digest(student) for student in self.notes}
        outputs = self.state / "autograded"  # a notebook is there once nbgrader has begun with it
        known = {
            student
            for student, digest in digests.items()
            if self.journal.get(student, "digest") == digest and self._place(outputs, student).is_file()
        }
        waiting = [student for student in digests if force or student not in known]
        for student in waiting:  # what a killed run leaves half graded must not pass for done
            self.journal.set(student, digest=None, stopped=None, flagged=None)
        started = 0
        task = {"task": "grade", "submitted": str(self.staged), "students": waiting, "sandbox": self.sandbox}
        for event in nbgrader.ask(**task):
            student = event["student"]
            if event["event"] == "started":
                started += 1
                say(f"[{started}/{len(waiting)}] {student}")
            elif event["event"] == "slow":
                say(f"      {event['text']}")
            elif event["event"] in ("stopped", "flagged"):
                self.journal.set(student, **{event["event"]: event["text"]})
            elif event["event"] == "graded":
                self.journal.set(student, digest=digests[student])
            else:
                self.problems[student] = f"nbgrader could not grade it ({event['error']})"
        say("writing feedback")  # also of what did not change: a person may have commented on it
        graded = [student for student in digests if student not in self.problems]
        for event in nbgrader.ask(task="feedback", students=graded):
            self.notes[event["student"]] = f"nbgrader could not write the feedback ({event['error']})"

    def grade_of(self, submission: Submission) -> Grade:
        """The result, from the gradebook."""
        student = submission.student
        said = [self.notes.get(student, submission.note), self.journal.get(student, "flagged")]
        note = "; ".join(filter(None, [*said, "" if self.sandbox else NO_SANDBOX]))
        if student in self.problems:
            self.journal.set(student, digest=None)
            gradebook.flag(self.state, self.assignment, student)
            return Grade(student, problem=self.problems[student], note=note)
        points = gradebook.points_of(self.state, self.assignment, student)
        parts = notebook.parts(self.template)
        problem = ""
        ungraded = [(str(number), part) for number, part in enumerate(parts, start=1) if part.id not in points]
        missing = [number for number, part in ungraded if not part.manual]
        if waiting := [number for number, part in ungraded if part.manual]:
            note = "; ".join(filter(None, [note, f"part {', '.join(waiting)} waits for a person, see formgrader"]))
        if missing:
            why = self.journal.get(student, "stopped") or "nbgrader gave no points"
            which = "part" if len(missing) == 1 else "parts"
            problem = f"{why}: {which} {', '.join(missing)} not graded, see formgrader"
        return Grade(student, points, problem, note)

    def _collect(self, student: str, path: Path) -> None:
        """Copy a submission from elsewhere into the course, where formgrader and nbgrader's own commands look."""
        submitted = (self.state / "submitted").resolve()
        place = self._place(submitted, student)
        earlier = place.read_bytes() if place.is_file() else None
        if submitted in path.resolve().parents or earlier == path.read_bytes():
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        if earlier is not None:
            now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
            place.replace(place.with_name(f"{place.name}.until-{now}"))
        shutil.copy2(path, place)

    def _place(self, folder: Path, student: str) -> Path:
        """Where nbgrader has a student's notebook in one of its folders."""
        return folder / student / self.assignment.name / self.assignment.path.name

    def _digest(self, student: str) -> str:
        """Changes with each cell of the submission (not its random id), and with the source and its hidden tests."""
        cells = json.dumps([cell.source for cell in notebook.read(self._place(self.staged, student)).cells])
        how = b"" if self.sandbox else b"without a sandbox"  # is graded again once there is one
        return hashlib.sha256(self.assignment.path.read_bytes() + cells.encode() + how).hexdigest()
