"""Grading in several processes, stopped and taken up: the gradebook is the one that one process makes."""

import subprocess
import sys
import threading

import pytest
import small_class
from small_class import NAME, hand_in, new_course, students

from autograder.grading.collect import find_submissions
from autograder.grading.grade import grade
from autograder.grading.jobs import at_once
from autograder.grading.lock import only_one
from autograder.grading.process import WorkerProcess
from autograder.grading.progress import Bar, Lines
from course_lib.errors import CourseError

COUNT = 6
ECHO = """
import json, os, sys
for line in sys.stdin:
    task = json.loads(line)
    if task["student"] == "crash":
        os._exit(3)
    print(json.dumps({"event": "evaluated", "student": task["student"], "process": os.getpid()}), flush=True)
    print('{"event": "done"}', flush=True)
"""


REFUSING = """
from autograder.grading.events import private_output, serve
from course_lib.errors import CourseError
class Worker:
    def read(self, file):
        if file == "policy.toml":
            raise CourseError(f"{file} is not TOML.")
        tell("read")
with private_output() as tell:
    serve(Worker(), tell)
"""


class Class:
    """A small class, graded by one job."""

    def __init__(self, folder):
        self.state = folder / "course"
        self.assignment = new_course(self.state)
        self.deserved = {}
        for student, answers, points in students(COUNT):
            hand_in(self.state, student, answers)
            self.deserved[student] = points
        self.said = []
        self.grades = self.run()

    def run(self, **options):
        found = find_submissions(self.assignment, self.state / "submitted")
        return {g.student: g for g in grade(self.assignment, found, self.state, say=self.said.append, **options)}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    return Class(tmp_path_factory.mktemp("one-job"))


def echoing(tmp_path):
    """A worker that only answers."""
    (tmp_path / "echo_worker.py").write_text(ECHO)

    class Echo(WorkerProcess):
        def __init__(self):
            super().__init__("echo_worker", folder=tmp_path)

    return Echo


class TestAtOnce:
    @pytest.fixture(autouse=True)
    def path(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def test_each_task_once(self, tmp_path):
        tasks = [{"student": str(number)} for number in range(12)]
        events = list(at_once(tasks, 3, echoing(tmp_path)))
        assert sorted(e["student"] for e in events if e["event"] == "evaluated") == sorted(t["student"] for t in tasks)
        assert len([e for e in events if e["event"] == "started"]) == 12
        assert len({e["process"] for e in events if e["event"] == "evaluated"}) <= 3

    def test_a_process_that_ends_costs_one_task(self, tmp_path):
        names = ["a", "crash", "b", "c"]
        events = list(at_once([{"student": name} for name in names], 1, echoing(tmp_path)))
        assert [e["student"] for e in events if e["event"] == "evaluated"] == ["a", "b", "c"]
        (problem,) = [e for e in events if e["event"] == "problem"]
        assert problem["student"] == "crash"
        assert "ended with status 3" in problem["error"]

    def test_what_a_worker_refuses_is_said_in_its_words(self, tmp_path):
        """Without a traceback, and the worker goes on."""
        (tmp_path / "refusing_worker.py").write_text(REFUSING)
        with WorkerProcess("refusing_worker", folder=tmp_path) as worker:
            with pytest.raises(CourseError, match=r"^policy\.toml is not TOML\.$"):
                list(worker.ask(task="read", file="policy.toml"))
            assert list(worker.ask(task="read", file="other.toml")) == [{"event": "read"}]

    def test_a_reader_that_gives_up_leaves_no_process(self, tmp_path):
        started = []

        def begin():
            started.append(echoing(tmp_path)())
            return started[-1]

        events = at_once([{"student": str(number)} for number in range(50)], 2, begin)
        next(events)
        events.close()
        assert all(each.process.poll() is not None for each in started)
        assert not [thread for thread in threading.enumerate() if "_work" in thread.name]


class TestLock:
    def test_a_second_run_is_refused_with_the_process_of_the_first(self, tmp_path):
        code = (
            "import sys, time\nfrom pathlib import Path\nfrom autograder.grading.lock import only_one\n"
            "with only_one(Path(sys.argv[1]), print):\n    print('held', flush=True)\n    sys.stdin.read()\n"
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], **pipes) as other:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(CourseError, match=rf"process {other.pid}\) is at work"), only_one(tmp_path, print):
                pass
            other.stdin.close()
        with only_one(tmp_path, print):
            pass

    def test_what_a_killed_run_left_is_waited_for(self, tmp_path):
        code = (
            "import subprocess, sys\nfrom pathlib import Path\nfrom autograder.grading.lock import only_one\n"
            "with only_one(Path(sys.argv[1]), print) as lock:\n"
            "    subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], pass_fds=[lock])\n"
            "    print('held', flush=True)\n    sys.stdin.buffer.raw.read(0)\n    import time; time.sleep(1000)\n"
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        said = []

        def told(line):
            said.append(line)
            other.stdin.close()  # what was left ends now

        with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], **pipes) as other:
            assert other.stdout.readline() == "held\n"
            other.kill()
            other.wait()
            with only_one(tmp_path, told):
                pass
        assert said == ["waiting for the process that an earlier run has left"]


def test_lines_in_a_log_and_a_bar_in_a_terminal(capsys):
    lines = []
    shown = Lines(lines.append)
    shown.started("ann", 1, 2)
    shown.booked("ann", 2)
    assert lines == ["[1/2] ann"]
    with Bar(print) as bar:
        bar.started("ann", 1, 2)
        bar.booked("ann", 2)
        bar.say("a note")
        bar.started("bob\x1b[2J", 2, 2)
    said = capsys.readouterr()
    assert said.out == "a note\n"
    assert "1/2" in said.err
    assert "bob" in said.err
    assert "\x1b[2J" not in said.err


@pytest.mark.slow
@pytest.mark.xdist_group("jobs")
class TestJobs:
    def test_each_gets_what_it_deserves(self, graded):
        assert {student: g.points for student, g in graded.grades.items()} == graded.deserved
        assert not any(g.problem for g in graded.grades.values())

    def test_what_is_graded_is_not_graded_again(self, graded):
        graded.said.clear()
        again = graded.run(jobs=2)
        assert again == graded.grades
        assert not [line for line in graded.said if line.startswith("[")]


@pytest.mark.slow
@pytest.mark.xdist_group("jobs")
class TestOnePart:
    """The tests of a part are edited after the class was graded."""

    @pytest.fixture
    def judged(self, monkeypatch):
        """The parts that each submission's task names."""
        asked = {}
        real = at_once

        def noted(tasks, jobs, start):
            asked.update({task["student"]: task["parts"] for task in tasks})
            return real(tasks, jobs, start)

        monkeypatch.setattr("autograder.grading.grade.at_once", noted)
        return asked

    @pytest.fixture
    def term(self, tmp_path):
        """A course with an honest student, and one who is wrong in two parts."""
        new_course(tmp_path)
        hand_in(tmp_path, "ann", {})
        hand_in(tmp_path, "bob", {"double": "def double(x):\n    return 7\n", "counter": "pass\n"})
        run = Class.__new__(Class)
        run.state, run.assignment, run.said = (
            tmp_path,
            small_class.Assignment(NAME, tmp_path / "source/mini/mini.ipynb"),
            [],
        )
        run.grades = run.run()
        return run

    def edit(self, term, part, old, new):
        text = term.assignment.path.read_text()
        assert old in text
        term.assignment.path.write_text(text.replace(old, new))

    def test_only_that_part_is_judged(self, term, judged):
        assert term.grades["bob"].total == 6
        self.edit(term, "double", "result_of(double, 3), 6)", "result_of(double, 3), 7)")
        self.edit(term, "double", "result_of(double, [1]), [1, 1])", "result_of(double, [1]), 7)")
        again = term.run()
        assert judged == {"ann": ["check-double"], "bob": ["check-double"]}
        assert again["ann"].points == term.grades["ann"].points | {"check-double": 0}
        assert again["bob"].points == term.grades["bob"].points
        judged.clear()
        assert term.run() == again
        assert judged == {}

    def test_a_part_that_is_named_is_judged_again(self, term, judged):
        again = term.run(parts=["check-counter"])
        assert judged == {"ann": ["check-counter"], "bob": ["check-counter"]}
        assert again == term.grades

    def test_new_answers_are_judged_as_a_whole(self, term, judged):
        self.edit(term, "double", "# Hint: twice", "# Hint: two times")
        hand_in(term.state, "bob", {"counter": "pass\n"})
        again = term.run()
        assert judged == {"ann": ["check-double"], "bob": None}
        assert again["bob"].total == 8
