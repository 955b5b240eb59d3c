"""Hostile submissions get what their honest parts deserve, in time, and leave nothing behind. See `attacks.cases`."""

import copy
import os
import time
from pathlib import Path

import nbformat
import pytest
from attacks.cases import CASES
from attacks.mini import POINTS, TOTAL, submission, template

from autograder import notebook
from autograder.judging import session, warm
from autograder.judging.judge import Judge
from autograder.judging.results import explained, write_results
from autograder.rebuild import rebuild
from autograder.sandbox.limits import MIB, Limits
from autograder.sandbox.usage import alive, tree
from course_lib.errors import CourseError

LIMITS = Limits(wall=120, cpu=60, memory=256 * MIB, tasks=24, scratch=16 * MIB)
SECRET = 4321
ENDED = "its process ended with status 3 (a crash in compiled code, or a call of os._exit)"
ALL = [(kind, name) for kind, cases in CASES.items() for name in cases]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """A course that the submissions try to get at."""
    folder = tmp_path_factory.mktemp("course")
    (folder / "gradebook.db").write_text("all grades")
    (folder / "submitted" / "ann").mkdir(parents=True)
    (folder / "submitted" / "ann" / "mini.py").write_text("def double(x):\n    return 2 * x\n")
    return folder


@pytest.fixture
def namespaces(monkeypatch):
    """The process trees of the sandboxes that a test starts, held open: the kernel gives a free number to another."""
    found, held, start = set(), [], session.Session._await

    def noted(self):
        start(self)
        for inside in tree(self.running.top())[1:]:
            held.append(os.open(f"/proc/{inside}/ns/pid", os.O_RDONLY))
            found.add(os.readlink(f"/proc/self/fd/{held[-1]}"))
        found.discard(os.readlink("/proc/self/ns/pid"))

    monkeypatch.setattr(session.Session, "_await", noted)
    yield found
    for each in held:
        os.close(each)


def members(namespaces):
    """The processes that are still in one of the process trees."""
    found = []
    for path in Path("/proc").glob("[0-9]*/ns/pid"):
        try:
            if os.readlink(path) in namespaces and alive(int(path.parts[2])):
                found.append(path)
        except OSError:  # it has just ended
            continue
    return found


def judged(whole, **options):
    with Judge(whole, seed=SECRET, limits=LIMITS, **options) as judge:
        return judge.verdicts(), judge


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_are_enough():
    assert len(ALL) >= 60
    assert len(CASES) >= 14


def test_honest_answers_get_all():
    verdicts, judge = judged(submission({}))
    assert [(v.part.id, v.points, v.message) for v in verdicts] == [(f"check-{p}", n, "") for p, n in POINTS.items()]
    assert judge.flagged == []


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), ALL)
def test_it_gets_what_its_honest_parts_deserve(kind, name, attacked, namespaces):
    answers = {part: source.replace("{course}", str(attacked)) for part, source in CASES[kind][name].items()}
    answers = {part: source.replace("{{", "{").replace("}}", "}") for part, source in answers.items()}
    hostile = set(answers) - {"heads"}  # there the attack is only prepared
    before, mine, started = contents(attacked), os.listdir(), time.monotonic()
    verdicts, _ = judged(submission(answers))
    points = {v.part.id.removeprefix("check-"): v.points for v in verdicts}
    assert points == {part: 0 if part in hostile else POINTS[part] for part in POINTS}
    assert time.monotonic() - started < 60
    assert contents(attacked) == before
    assert os.listdir() == mine
    assert namespaces
    assert not members(namespaces)
    for verdict in verdicts:
        assert len(explained(verdict)) < 5000
        assert all(c.isprintable() or c == "\n" for c in explained(verdict))
    whole = submission(answers)
    write_results(whole, verdicts)
    nbformat.validate(whole)
    nbformat.writes(whole).encode()


def slow_to_end(monkeypatch, seconds):
    """A killed process tree that lives for a moment longer: bwrap kills what is left only after its program is gone."""
    real = session.Session._receive

    def late(self, decide=True):
        said = real(self, decide)
        time.sleep(seconds)
        return said

    monkeypatch.setattr(session.Session, "_receive", late)


@pytest.mark.parametrize("name", ["all processes killed that it may kill", "a crash in a cell"])
@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_a_process_that_dies_late_costs_only_its_own_part(monkeypatch, name, seconds):
    slow_to_end(monkeypatch, seconds)
    source = CASES["exits"].get(name, {"scaled": "import os; os._exit(3)"})
    verdicts, _ = judged(submission(source))
    assert {v.part.id.removeprefix("check-"): v.points for v in verdicts} == POINTS | dict.fromkeys(source, 0)


def test_what_a_part_left_running_is_not_charged_to_the_next(monkeypatch):
    """The watchdog is slow: it has seen too many tasks, and ends the process while the next part is asked for."""
    from autograder.sandbox import process

    real = process.exceeded

    def slow(root, limits):
        why = real(root, limits)
        time.sleep(0.3 if why else 0)
        return why

    monkeypatch.setattr(process, "exceeded", slow)
    verdicts, _ = judged(submission(CASES["processes"]["thirty threads"]))
    wrong = {v.part.id.removeprefix("check-") for v in verdicts if not v.points}
    assert wrong <= set(CASES["processes"]["thirty threads"])


def test_a_crash_in_a_cell_costs_its_own_part_and_is_flagged():
    verdicts, judge = judged(submission({"scaled": "import os; os._exit(3)"}))
    assert sum(v.points for v in verdicts) == TOTAL - POINTS["scaled"]
    assert judge.flagged == [
        "scaled: its process ended with status 3 (a crash in compiled code, or a call of os._exit)"
    ]
    said = next(v.message for v in verdicts if v.part.id == "check-scaled")
    assert said.startswith("the cell with your answer stops: its process ended with status 3")


def test_a_submission_that_takes_its_whole_time_keeps_what_it_had():
    slow = "def {}(*a):\n    import time; time.sleep(60)\n"
    answers = {part: slow.format(part) for part in ("scaled", "attend")}
    with Judge(submission(answers, seconds=2), limits=LIMITS) as judge:
        judge.clock.whole = judge.clock.left = 2.5
        verdicts = judge.verdicts()
    assert verdicts[0].points == 2
    assert [v.points for v in verdicts[1:]] == [0, 0, 0, 0]
    assert [v.reached for v in verdicts][-1] is False
    assert "the submission as a whole took over 2.5 seconds" in verdicts[-1].message


def mangled(edit):
    """A wrong submission whose cells are edited, as it comes out of `rebuild`."""
    mine = submission({part: f"def {part}(*arguments):\n    return 0\n" for part in ("double", "scaled")})
    edit(mine)
    return rebuild(template(), mine)


def graded_cells(nb):
    return [cell for cell in nb.cells if notebook.is_test(cell)]


def emptied(nb):
    for cell in graded_cells(nb):
        cell.source = "pass"


def deleted(nb):
    nb.cells = [cell for cell in nb.cells if not notebook.is_test(cell)]


def duplicated(nb):
    nb.cells += copy.deepcopy(graded_cells(nb))


def reordered(nb):
    nb.cells.reverse()


def retyped(nb):
    for cell in graded_cells(nb):
        cell.cell_type = "markdown"


def renamed(nb):
    tests = graded_cells(nb)
    tests[0].metadata.nbgrader.grade_id, tests[4].metadata.nbgrader.grade_id = "check-counter", "check-double"


def worth_more(nb):
    for cell in graded_cells(nb):
        cell.metadata.nbgrader.points = 1000


def not_judged(nb):
    nb.metadata.course = {"judged": False, "seconds_per_cell": 10_000}


def scored(nb):
    for cell in graded_cells(nb):
        cell.outputs = [nbformat.v4.new_output("execute_result", data={"text/plain": "1000"})]


def parameters(nb):
    cell = nbformat.v4.new_code_cell("def double(x):\n    return 2 * x\n")
    cell.metadata["tags"] = ["injected-parameters"]
    nb.cells.insert(3, cell)


@pytest.mark.slow
@pytest.mark.parametrize(
    "edit", [emptied, deleted, duplicated, reordered, retyped, renamed, worth_more, not_judged, scored, parameters]
)
def test_edited_cells_change_nothing(edit):
    whole = mangled(edit)
    verdicts, _ = judged(whole)
    points = {v.part.id.removeprefix("check-"): v.points for v in verdicts}
    assert points == POINTS | {"double": 0, "scaled": 0}
    write_results(whole, verdicts)
    assert [bool(cell.outputs) for cell in graded_cells(whole)] == [True, True, False, False, False]


def test_a_sandbox_that_does_not_start_is_no_zero(monkeypatch):
    """As where a container forbids what bubblewrap needs."""
    monkeypatch.setattr(warm, "python", lambda *arguments: ["/usr/bin/false"])
    with pytest.raises(CourseError, match=r"did not start \(it ended its process\), so nothing was graded"):
        judged(submission({}))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"cells": ' + "[" * 50_000 + "]" * 50_000 + "}", '{"nbformat": 3, "worksheets": 7}', "\0"]
)
def test_broken_notebooks_are_refused(text, tmp_path):
    path = tmp_path / "x.ipynb"
    path.write_text(text)
    with pytest.raises(CourseError):
        notebook.read(path)
