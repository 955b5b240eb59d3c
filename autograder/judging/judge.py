"""Decides how many points a submission gets, in a process in which none of its code runs.

The test cells of the assignment run here. What they call runs there, in the sandbox, and answers with plain data. So a
submission can change what it answers, which is its right, and nothing else.
"""

import builtins
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from autograder import notebook
from autograder.judging.checks import (
    Check,
    as_python,
    asked_for,
    checks,
    forbidden,
    functions,
    functions_of,
    imports,
    worth,
)
from autograder.judging.explain import advice
from autograder.judging.remote import ANSWER, Remote
from autograder.judging.session import Clock, Ended, Session, shortened
from autograder.judging.stage import LIBRARIES
from autograder.judging.warm import Warm
from autograder.notebook import IMPORTS, Cell, Notebook
from autograder.sandbox.limits import Limits
from course_lib.errors import printable

GIVEN = "given: "  # `worker.GIVEN`: a cell of the assignment's own, which no message about an error points to
LONGEST = 2000  # characters of a message
UNWRITTEN = "NotImplementedError: this part is not written yet"  # the stub of nbgrader_config.py
SECONDS = 20  # that a cell may take where the assignment does not say it
WHOLE = 6  # how many times what a cell may take a submission may take


@dataclass(frozen=True)
class Verdict:
    """What became of one part.

    part: which. points: what it gets. message: why it does not get all, "" where it does. called: the call or the
    input that the message is about, in words. hint: what the assignment says to that. hidden: whether a hidden test
    failed. reached: False where the time for the submission was over before. cell: what the part's own cell complained
    about.
    """

    part: notebook.Part
    points: float
    message: str = ""
    called: str = ""
    hint: str = ""
    hidden: bool = False
    reached: bool = True
    cell: str = ""


def is_judged(whole: Notebook) -> bool:
    """Whether the assignment's checks are made for the judge: its metadata say so."""
    return bool(whole.metadata.get("course", {}).get("judged"))


class Judge:
    """Judges one submission; use it in a `with` block.

    Args:
        whole: A rebuilt submission: the assignment's own cells with the student's answers, see `rebuild`.
        sandbox: False to run the submission's code with our own rights.
        seed: The course's secret, which varies the random inputs of hidden tests; None leaves them as they are.
        limits: What the submission may use; by default what its assignment says.
        warm: Processes with the imports done, for many submissions; by default this one has its own.
        tell: Called with each verdict as soon as it is known.
    """

    def __init__(
        self,
        whole: Notebook,
        *,
        sandbox: bool = True,
        seed: int | None = None,
        limits: Limits | None = None,
        warm: Warm | None = None,
        tell: Callable[[Verdict], object] = lambda verdict: None,
    ) -> None:
        self.whole, self.sandbox, self.seed, self.tell = whole, sandbox, seed, tell
        about = whole.metadata.get("course", {})
        part = about.get("seconds_per_cell", SECONDS)
        self.clock = Clock(WHOLE * part, part)
        self.limits = limits or Limits(wall=10 * WHOLE * part, cpu=WHOLE * part)
        self.libraries, self.course = about.get("libraries", LIBRARIES), about.get("library", [])
        self.sessions: dict[tuple[frozenset[str], str], Session] = {}
        self.lost: dict[str, str] = {}  # cells that ended their process, and how
        self.ended: dict[str, str] = {}  # parts whose checks ended their process, and how
        self.names: dict[str, Any] = {"__name__": "__main__"}  # of the assignment's own cells, for its checks
        self.run: set[int] = set()  # the ids of those of them that have been run here
        self.stack = ExitStack()
        self.warm = warm or self.stack.enter_context(Warm())

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def verdicts(self) -> list[Verdict]:
        """Judge all parts, in order, but those that a person grades."""
        found, parts = [], [part for part in notebook.parts(self.whole) if not part.manual]
        self.launch(parts)
        for part in parts:
            found.append(self.verdict(part))
            self.tell(found[-1])
        return found

    def launch(self, parts: list[notebook.Part]) -> None:
        """Start the processes for some parts: what has much to import does so while the first parts are judged."""
        for part in parts:
            self._session(self._test(part)).launch()

    @property
    def flagged(self) -> list[str]:
        """What a person should look at: cells and checks that ended their process, and how."""
        return [f"{name}: {why}" for name, why in [*self.lost.items(), *self.ended.items()]]

    def verdict(self, part: notebook.Part) -> Verdict:
        """Judge one part: its cells in a clean process, then its checks here.

        Args:
            part: One of the notebook's.
        """
        if self.clock.left <= 0:
            why = f"not run: the submission as a whole took over {self.clock.whole:g} seconds"
            return Verdict(part, 0, why, reached=False)
        test = self._test(part)
        session = self._session(test)
        cells, own = self._cells(test)
        verdict = self._attempt(session, test, part, cells, own)
        others = {notebook.grade_id(cell) for cell in self.whole.cells if notebook.is_solution(cell)} - own
        alone = [(name, source) for name, source in cells if name not in others]
        if verdict.message and not session.late and len(alone) < len(cells):
            # what the cells of other parts do to this process must not cost it its points; a process that they have
            # killed may live a moment longer, and end in a cell of this part
            for name in own:
                self.lost.pop(name, None)
            self.ended.pop(part.id or "", None)
            again = self._attempt(session, test, part, alone, own)
            verdict = max(again, verdict, key=lambda each: each.points)
        return verdict

    def _test(self, part: notebook.Part) -> Cell:
        return next(cell for cell in self.whole.cells if notebook.grade_id(cell) == part.id)

    def _session(self, test: Cell) -> Session:
        """The process for a part: parts share one where the same is given and forbidden."""
        given = [cell.source for cell in self._before(test) if _is_setup(cell) and not _is_ours_alone(cell)]
        key = forbidden(test.source), imports(given)
        if key not in self.sessions:
            refused, lines = key
            stage = self.warm.stage(refused, self.libraries, self.course)
            session = Session(stage, self.limits, self.clock, self.warm, sandbox=self.sandbox, imports=lines)
            self.sessions[key] = self.stack.enter_context(session)
        return self.sessions[key]

    def _before(self, test: Cell) -> list[Cell]:
        """The cells above a test."""
        place = next(number for number, cell in enumerate(self.whole.cells) if cell is test)
        return self.whole.cells[:place]

    def _attempt(
        self, session: Session, test: Cell, part: notebook.Part, cells: list[tuple[str, str]], own: set[str]
    ) -> Verdict:
        """Judge a part after some cells. Where a check ends the process, the other properties get another one."""
        failed: dict[str, Verdict] = {}
        spare = 1
        while True:
            before = dict(failed)
            complaint = self._begun_and_checked(session, test, part, cells, own, failed)
            if session.blameless and spare:
                failed, spare = before, spare - 1
                self.ended.pop(part.id or "", None)
                continue
            if not session.ended or "" in failed or len(failed) == len(before) or self.clock.left <= 0:
                break
        verdict = _summed(part, worth(test.source), failed)
        if verdict.message and complaint:
            said = f"the cell with your answer stops: {complaint}"
            verdict = Verdict(part, verdict.points, said, hidden=verdict.hidden, cell=complaint)
        return verdict

    def _begun_and_checked(
        self,
        session: Session,
        test: Cell,
        part: notebook.Part,
        cells: list[tuple[str, str]],
        own: set[str],
        failed: dict[str, Verdict],
    ) -> str:
        """Run the cells and then the checks of what has not failed yet; what the part's own cell complains about."""
        names = self._names(test)
        try:
            complaint = self._begin(session, cells, own)
            asked = asked_for(test.source) | self.asked
            for name in asked - names.keys() - vars(builtins).keys():
                names[name] = Remote(session, name, title=ANSWER if name in self.helpers else name)
            self._check(session, test, part, names, failed)
            return complaint
        finally:
            session.end()
            for name in [name for name, value in names.items() if isinstance(value, Remote)]:
                del names[name]

    def _begin(self, session: Session, cells: list[tuple[str, str]], own: set[str]) -> str:
        """Run the cells, without those that end their process; what the part's own cell complains about, or ""."""
        while True:
            running = [(name, source) for name, source in cells if name not in self.lost]
            try:
                failed = session.begin(running)
            except Ended as error:
                cell = session.cell
                if cell not in dict(running):  # it lies about its cells
                    cell = next((name for name, _ in running if name in own), running[-1][0] if running else "")
                if not cell or self.clock.left <= 0:
                    return str(error)
                self.lost[cell] = str(error)
                continue
            complaints = [self.lost[name] for name in own if name in self.lost]
            complaints += [_described(failed[name]) for name in own if isinstance(failed.get(name), dict)]
            return complaints[0] if complaints else ""

    def _check(
        self, session: Session, test: Cell, part: notebook.Part, names: dict[str, Any], failed: dict[str, Verdict]
    ) -> None:
        """Run the checks; of each property, up to the first that fails, which is noted in `failed`."""
        for check in checks(part.id, test.source):
            if check.property in failed or "" in failed:
                continue
            session.called = None
            try:
                with varied(self.seed if check.hidden else None):
                    exec(check.code, names)
            except Exception as error:
                failed[check.property] = self._failure(session, part, check, error)
                if session.ended:
                    return

    def _failure(self, session: Session, part: notebook.Part, check: Check, error: Exception) -> Verdict:
        """What is said of a check that fails."""
        message = _tidy(_message(error))
        if isinstance(error, Ended) or session.ended:
            message = _tidy(session.ended or str(error))
            self.ended[part.id] = message
        if check.hidden:
            about = check.note or "a case that the visible checks do not have"
            return Verdict(part, 0, f"a hidden test fails: {about}", hidden=True)
        if message.startswith(UNWRITTEN):  # the call and the hint would only be in the way
            return Verdict(part, 0, message)
        return Verdict(part, 0, message, _call(session.called), check.note)

    def _names(self, test: Cell) -> dict[str, Any]:
        """The names of the assignment's own cells above a test, for its checks. Each cell is run when it is first
        needed: the first parts of an assignment do not wait for a library that only its last parts import."""
        for cell in self._before(test):
            if _is_setup(cell) and not _is_beside(cell) and id(cell) not in self.run:
                self.run.add(id(cell))
                exec(compile(cell.source, "<setup>", "exec"), self.names)
        self.names["check_own"] = lambda *answers: None  # what an answer may not use is not in its process
        return self.names

    @cached_property
    def helpers(self) -> set[str]:
        """The functions of the assignment's own that the checks call beside the answers."""
        return {name for cell in self.whole.cells if _is_beside(cell) for name in functions(cell.source)}

    @cached_property
    def asked(self) -> set[str]:
        """What the assignment's own cells use here, which may be beside the answers."""
        ours = [cell.source for cell in self.whole.cells if _is_setup(cell) and not _is_beside(cell)]
        return {name for source in ours for name in asked_for(source)}

    def _cells(self, test: Cell) -> tuple[list[tuple[str, str]], set[str]]:
        """The cells to run before a test, and the names of those that are the part's own."""
        cells: list[tuple[str, str]] = []
        own: set[str] = set()
        for number, cell in enumerate(self._before(test)):
            if notebook.is_test(cell):
                own = set()
            elif cell.cell_type == "code" and _is_students(cell):
                name = notebook.grade_id(cell) or f"your own cell {number + 1}"
                cells.append((name, as_python(cell.source)))
                if notebook.is_solution(cell):
                    own.add(name)
            elif _is_setup(cell) and not _is_ours_alone(cell):
                cells.append((f"{GIVEN}{notebook.grade_id(cell)}", as_python(cell.source)))
        for cell in filter(_is_beside, self._before(test)):  # whatever else these names have come to mean
            cells.append((f"{GIVEN}{notebook.grade_id(cell)} again", functions_of(cell.source)))
        return cells, own


@contextmanager
def varied(seed: int | None) -> Iterator[None]:
    """NumPy's `default_rng(seed)` gives other numbers within, which depend on the secret; None leaves it as it is.

    Args:
        seed: The secret.
    """
    if seed is None:
        yield
        return
    original = np.random.default_rng

    def other(given: Any = None) -> np.random.Generator:
        return original([seed, *np.atleast_1d(given).tolist()] if given is not None else None)

    np.random.default_rng = other  # type: ignore[assignment]
    try:
        yield
    finally:
        np.random.default_rng = original


def _is_students(cell: Cell) -> bool:
    return notebook.grade_id(cell) is None or (notebook.is_solution(cell) and not notebook.is_test(cell))


def _is_setup(cell: Cell) -> bool:
    """Whether it is one of the assignment's own cells that imports something, or that is run beside the answers."""
    given = cell.cell_type == "code" and not _is_students(cell) and not notebook.is_test(cell)
    return given and (IMPORTS.search(cell.source) is not None or _is_beside(cell))


def _is_beside(cell: Cell) -> bool:
    """Whether a cell of the assignment is run beside the answers only: the checks call what it defines there."""
    return bool(cell.metadata.get("course", {}).get("beside"))


def _is_ours_alone(cell: Cell) -> bool:
    """Whether a cell of the assignment is run here only: it imports what the answers may not see."""
    return cell.metadata.get("course", {}).get("beside") is False


def _summed(part: notebook.Part, shares: dict[str, float], failed: dict[str, Verdict]) -> Verdict:
    """The verdict on a part.

    Args:
        part: The part.
        shares: The points of its properties; empty where it does not tell them apart.
        failed: What is said of each property that is lost, "" being all of them.
    """
    if not failed:
        return Verdict(part, part.points)
    first, said = next(iter(failed.values())), []
    for name, verdict in failed.items():
        about = f"{name.replace('_', ' ')} ({shares[name]:g} of {part.points:g} points): " if name else ""
        said.append(about + verdict.message)
    points = 0 if "" in failed else sum(share for name, share in shares.items() if name not in failed)
    hidden = any(verdict.hidden for verdict in failed.values())
    return Verdict(part, points, "\n".join(said), first.called, first.hint, hidden)


def _described(error: dict[str, Any]) -> str:
    """What a cell raised, in words."""
    kinds, text, where = error.get("kinds"), error.get("text"), error.get("where")
    kind = kinds[0] if isinstance(kinds, list) and kinds else "an error"  # it may hold anything
    return _tidy(f"{kind}{f': {text}' if text else ''}{f', in {where}' if where else ''}")


def _message(error: Exception) -> str:
    """What a check or an answer complained about, in words."""
    text, where = str(error), getattr(error, "where", "")
    if isinstance(error, AssertionError) and text:
        return text
    kind = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{kind}{f', in {where}' if where else ''}{advice(text)}"


def _call(called: Any) -> str:
    """The last call of an answer, as one would write it, or what its input was."""
    if called is None:
        return ""
    name, arguments, named = called
    shown = [shortened(each) for each in arguments] + [f"{key}={shortened(each)}" for key, each in named.items()]
    if name == ANSWER:  # a helper of the checks calls it
        return _tidy(f"the input was {', '.join(shown)}") if shown else ""
    return _tidy(f"the call was {name}({', '.join(shown)})")


def _tidy(text: str) -> str:
    """A stranger's text of a moderate length, without control characters; its lines are kept."""
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text)} characters)"
    return "\n".join(printable(line) for line in text.split("\n"))
