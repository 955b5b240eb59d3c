"""The instructor's grading: nbgrader's autograde over a class, where one odd submission costs nobody else anything.

Submissions run in a sandbox. Of judged assignments the judge decides (`autograder.judging`). The tests of the others
run in the submission's own process (`classic`), so that a submission could forge its score.

The tests run in `jobs` processes at once (`evaluate`), and a single one (`gradebook.worker`) books what came of them.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autograder import notebook
from autograder.configuration import outdated
from autograder.course import NOT_GIVEN, Assignment
from autograder.grading.collect import times
from autograder.grading.collect.policy import read_policy
from autograder.grading.collect.submissions import Submission
from autograder.grading.gradebook import exchange_secret
from autograder.grading.gradebook.process import NbgraderProcess
from autograder.grading.report.table import Grade, write_csv
from autograder.grading.run.journal import Journal
from autograder.grading.run.progress import Lines
from autograder.grading.workers.jobs import at_once
from autograder.grading.workers.lock import only_one
from autograder.grading.workers.process import WorkerProcess
from autograder.grading.workers.scratch import scratch_folder
from autograder.judging.judge import is_judged
from autograder.judging.results import FORGEABLE, NO_SANDBOX
from autograder.notebook import Notebook
from autograder.rebuild import rebuild
from autograder.sandbox import bubblewrap
from course_lib.errors import CourseError
from course_lib.files import write_whole


def grade(
    assignment: Assignment,
    submissions: dict[str, Submission],
    state: Path,
    *,
    force: bool = False,
    sandbox: bool = True,
    jobs: int = 1,
    parts: Collection[str] = (),
    feedback: bool = True,
    say: Callable[[str], object] = print,
    progress: Lines | None = None,
) -> list[Grade]:
    """Grade each submission into the gradebook in `state`; writes autograded/, feedback/ and grades-NAME.csv there.

    It begins with a note where the course's `nbgrader_config.py` is older than this version of the course.

    Each submission is rebuilt first (`rebuild`) in a temporary folder: the student's file is only read. A submission
    that cannot be graded has its problem written down and stops nobody else. One that did not change since it was
    graded keeps its grade; where only some tests have changed, only their parts are judged again. A run that was killed
    is taken up where it stopped.

    Args:
        assignment: The assignment; its source is copied into `state` at the first grading.
        submissions: By student, as `collect.find_submissions` finds them.
        state: The course's folder, where nbgrader has its gradebook.
        force: Grade again also what did not change.
        sandbox: False to run submissions with our own rights; each report says so.
        jobs: How many submissions are evaluated at the same time, each by a process with one thread.
        parts: The grade ids of parts to judge again in any case.
        feedback: Whether to write the feedback pages.
        say: Called with each line of progress.
        progress: Shows how far it is; by default a line for each submission.

    Returns:
        One grade per submission, in their order.

    Raises:
        CourseError: nbgrader refuses the assignment, the sandbox is not there, `policy.toml` says something that is no
            rule, or another grading goes on.
    """
    assignment, progress = placed(assignment, state), progress or Lines(say)
    read_policy(state)  # what is wrong with it is said before anything is graded
    with _at_work(assignment, state, say) as (nbgrader, at):
        say(f"preparing {assignment.name}")
        template = _released(assignment, nbgrader, state)
        if sandbox:
            bubblewrap.require()
        run = _Run(assignment, template, state, at, Journal(assignment, state), sandbox)
        run.tests = list(nbgrader.ask(task="tests"))[0]["sources"]
        for submission in submissions.values():
            run.stage(submission)
        run.autograde(nbgrader, progress, jobs, force, parts)
        points = run.points(nbgrader)
        if feedback:
            progress.say("writing feedback")
            run.feedback(nbgrader)
        grades = [run.grade_of(submission, points) for submission in submissions.values()]
    write_csv(state / f"grades-{assignment.name}.csv", assignment, grades)
    return grades


def make_release(assignment: Assignment, state: Path, say: Callable[[str], object] = print) -> Path:
    """Make what students get, and the assignment in the gradebook.

    Args:
        assignment: The assignment; its source is copied into `state` at the first time.
        state: The course's folder.
        say: Called with a line where there is something to know.

    Returns:
        The released notebook's path.

    Raises:
        CourseError: nbgrader refuses the assignment, or a grading of the course goes on.
    """
    assignment = placed(assignment, state)
    with _at_work(assignment, state, say) as (nbgrader, _):
        _released(assignment, nbgrader, state)
    return state / "release" / assignment.name / assignment.path.name


@contextmanager
def _at_work(
    assignment: Assignment, state: Path, say: Callable[[str], object]
) -> Iterator[tuple[NbgraderProcess, Path]]:
    """The process that books, in a course that is ours for as long, and a temporary folder."""
    with (
        only_one(state, say) as lock,
        scratch_folder("grade") as (folder, held),
        NbgraderProcess(state, assignment.name, held=(lock, held)) as nbgrader,
    ):
        if note := outdated(state):
            say(f"note: {note}")
        yield nbgrader, folder


def placed(assignment: Assignment, state: Path) -> Assignment:
    """The assignment as this course has it: its own copy, so that an update of the package changes nothing in a term.

    Args:
        assignment: The assignment as the package has it, or as one of several notebooks in a folder of the course's
            `source`. It is copied at the first grading, with the files beside it.
        state: The course's folder.

    Returns:
        The assignment that lies in the course's `source` folder.
    """
    own = state / "source" / assignment.name / f"{assignment.name}.ipynb"
    if not own.is_file():
        shutil.copytree(assignment.path.parent, own.parent, ignore=NOT_GIVEN, dirs_exist_ok=True)
        write_whole(own, assignment.path.read_bytes())
    return Assignment(assignment.name, own)


def _released(assignment: Assignment, nbgrader: NbgraderProcess, state: Path) -> Notebook:
    """The release, made anew; nbgrader refuses, say, a changed set of parts once there are grades."""
    for event in nbgrader.ask(task="release"):
        raise CourseError(f"nbgrader could not release {assignment.name}: {event['error']}")
    return notebook.read(state / "release" / assignment.name / assignment.path.name)


@dataclass
class _Run:
    """One grading of a class."""

    assignment: Assignment
    template: Notebook
    state: Path
    staged: Path  # a temporary folder in nbgrader's layout
    journal: Journal
    sandbox: bool = True  # False where it is graded without it
    notes: dict[str, str] = field(default_factory=dict)  # of the students who are staged
    problems: dict[str, str] = field(default_factory=dict)
    tests: dict[str, str] = field(default_factory=dict)  # the assignment's own cells, with the hidden tests

    @property
    def results(self) -> Path:
        """Where the notebooks are with what came of their tests."""
        return self.staged / "results"

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
        target = self._place(self.staged / "submitted", student)
        notebook.write(whole, target)
        ours = self.journal.get(student, "time")
        time = times.handed_in(path, submission.folder, ours)
        (target.parent / times.NAME).write_text(time.text)
        self._collect(student, path)
        times.publish(time, self._place(self.state / "submitted", student).parent, ours)
        self.journal.set(student, time=time.text if time.guessed else None)
        self.notes[student] = "; ".join(filter(None, [submission.note, time.note]))

    def autograde(
        self, nbgrader: NbgraderProcess, progress: Lines, jobs: int, force: bool, parts: Collection[str]
    ) -> None:
        """Evaluate what is staged and not graded yet, and have nbgrader book it.

        Args:
            nbgrader: The process in which nbgrader runs.
            progress: Shows how far it is.
            jobs: How many submissions are evaluated at the same time.
            force: Grade again also what did not change.
            parts: The grade ids of parts to judge again in any case.
        """
        marks = {student: self._marks(student) for student in self.notes}
        asked = {student: self._to_judge(student, marks[student], force, parts) for student in marks}
        waiting = [student for student, which in asked.items() if which is None or which]
        self.journal.set_all(waiting, digest=None)  # a killed run has graded none of them
        tasks = [self._task(student, asked[student]) for student in waiting]
        started = 0
        for event in at_once(tasks, jobs, lambda: self._evaluator(jobs)):
            student, what = event["student"], event["event"]
            if what == "started":
                started += 1
                if asked[student] is None:
                    self.journal.set(student, stopped=None, flagged=None)
                progress.started(student, started, len(waiting))
            elif what == "slow":
                progress.say(f"      {f'{student}: ' if jobs > 1 else ''}{event['text']}")
            elif what in ("stopped", "flagged"):
                self.journal.set(student, **{what: event["text"]})
            elif what == "evaluated":
                self._book(nbgrader, student, marks[student])
                progress.booked(student, len(waiting))
            else:
                self.problems[student] = f"it could not be graded ({event['error']})"
                progress.booked(student, len(waiting))

    def _book(self, nbgrader: NbgraderProcess, student: str, marks: dict[str, str]) -> None:
        folders = {"submitted": str(self.staged / "submitted"), "results": str(self.results)}
        for event in nbgrader.ask(task="grade", students=[student], **folders):
            if event["event"] == "graded":
                self.journal.set(student, **marks)
            else:
                self.problems[student] = f"nbgrader could not grade it ({event['error']})"

    def feedback(self, nbgrader: NbgraderProcess) -> None:
        """Write everybody's feedback, also of what did not change: a person may have commented on it.

        Args:
            nbgrader: The process in which nbgrader runs.
        """
        graded = [student for student in self.notes if student not in self.problems]
        for student in graded:
            submitted, autograded = (self._place(self.state / name, student) for name in ("submitted", "autograded"))
            exchange_secret.hand_on(submitted.parent, autograded.parent)
        for event in nbgrader.ask(task="feedback", students=graded):
            self.notes[event["student"]] = f"nbgrader could not write the feedback ({event['error']})"

    def _evaluator(self, jobs: int) -> WorkerProcess:
        name = self.assignment.name
        return WorkerProcess("autograder.grading.run.evaluate", name, folder=self.state, alone=jobs > 1)

    def _task(self, student: str, parts: list[str] | None) -> dict[str, object]:
        """What `evaluate` is to do, with the assignment's own tests in the submission."""
        whole = notebook.read(self._place(self.staged / "submitted", student))
        for cell in whole.cells:
            cell.source = self.tests.get(notebook.grade_id(cell) or "", cell.source)
        file = self._place(self.staged / "whole", student)
        notebook.write(whole, file)
        earlier = self._place(self.state / "autograded", student)
        return {
            "task": "evaluate",
            "student": student,
            "whole": str(file),
            "result": str(self._place(self.results, student)),
            "sandbox": self.sandbox,
            "parts": parts,
            "earlier": str(earlier),
        }

    def points(self, nbgrader: NbgraderProcess) -> dict[str, dict[str, Any]]:
        """What the gradebook holds now of those who were graded, and what being late costs. Those who could not be
        graded are left to a person.

        Args:
            nbgrader: The process in which nbgrader runs.
        """
        graded = [student for student in self.notes if student not in self.problems]
        self.journal.set_all(self.problems, digest=None)
        task = {"task": "points", "students": graded, "unsettled": list(self.problems)}
        return {event["student"]: event for event in nbgrader.ask(**task)}

    def grade_of(self, submission: Submission, found: dict[str, dict[str, Any]]) -> Grade:
        """The result.

        Args:
            submission: Of a student.
            found: What `points` returned.
        """
        student = submission.student
        said = [self.notes.get(student, submission.note), self.journal.get(student, "flagged")]
        said.append("" if is_judged(self.template) else FORGEABLE)
        note = "; ".join(filter(None, [*said, "" if self.sandbox else NO_SANDBOX]))
        if student in self.problems:
            return Grade(student, problem=self.problems[student], note=note)
        points, penalty = found[student]["points"], found[student].get("penalty", 0.0)
        if "late" in found[student]:
            cost = f", {penalty:g} points off" if penalty else ""
            note = "; ".join(filter(None, [note, f"late by {found[student]['late']}{cost}"]))
        parts = notebook.parts(self.template)
        problem = ""
        ungraded = [(str(number), part) for number, part in enumerate(parts, start=1) if part.id not in points]
        missing = [number for number, part in ungraded if not part.manual]
        if waiting := [number for number, part in ungraded if part.manual]:
            which = f"part {waiting[0]} waits" if len(waiting) == 1 else f"parts {', '.join(waiting)} wait"
            note = "; ".join(filter(None, [note, f"{which} for a person, see formgrader"]))
        if missing:
            why = self.journal.get(student, "stopped") or "nbgrader gave no points"
            which = "part" if len(missing) == 1 else "parts"
            problem = f"{why}: {which} {', '.join(missing)} not graded, see formgrader"
        return Grade(student, points, problem, note, penalty)

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

    def _marks(self, student: str) -> dict[str, str]:
        """What the journal keeps of a submission that is graded: digests of the whole, of all but the tests (not of the
        cells' random ids), and of each test."""
        staged = notebook.read(self._place(self.staged / "submitted", student))
        how = b"" if self.sandbox else b"without a sandbox"  # is graded again once there is one
        cells = json.dumps([cell.source for cell in staged.cells]).encode()
        about = json.dumps(self.template.metadata.get("course", {}), sort_keys=True).encode()
        answers = json.dumps([cell.source for cell in staged.cells if not notebook.is_test(cell)]).encode()
        tests = {
            notebook.grade_id(cell): _sha(f"{cell.metadata.nbgrader.points} {self._test(cell)}".encode())[:16]
            for cell in self.template.cells
            if notebook.is_test(cell)
        }
        return {
            "digest": _sha(self.assignment.path.read_bytes() + cells + how),
            "answers": _sha(about + answers + how),
            "tests": json.dumps(tests, sort_keys=True),
        }

    def _test(self, cell: notebook.Cell) -> str:
        return self.tests.get(notebook.grade_id(cell) or "", cell.source)

    def _to_judge(self, student: str, marks: dict[str, str], force: bool, parts: Collection[str]) -> list[str] | None:
        """The parts of a submission that are to be judged: None for all, none where it keeps its grade."""
        graded = self.journal.get(student, "digest")
        # a notebook is there once nbgrader has begun with it
        if force or graded is None or not self._place(self.state / "autograded", student).is_file():
            return None
        if graded == marks["digest"] and not parts:
            return []
        if not is_judged(self.template) or self.journal.get(student, "stopped"):
            return None
        before = json.loads(self.journal.get(student, "tests") or "{}")
        now = json.loads(marks["tests"])
        same = graded == marks["digest"] or self.journal.get(student, "answers") == marks["answers"]
        if not same or before.keys() != now.keys():
            return None
        return [part for part in now if now[part] != before[part] or part in parts] or None


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
