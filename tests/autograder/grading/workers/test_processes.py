"""Several processes at once, and the lock: each task once, an error in a sentence, and nothing that is left running."""

import subprocess
import sys
import threading

import pytest

from autograder.grading.workers.jobs import at_once
from autograder.grading.workers.lock import only_one
from autograder.grading.workers.process import WorkerProcess
from course_lib.errors import CourseError

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
from autograder.grading.workers.events import private_output, serve
from course_lib.errors import CourseError
class Worker:
    def read(self, file):
        if file == "policy.toml":
            raise CourseError(f"{file} is not TOML.")
        tell("read")
with private_output() as tell:
    serve(Worker(), tell)
"""


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
            "import sys, time\nfrom pathlib import Path\nfrom autograder.grading.workers.lock import only_one\n"
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
            "import subprocess, sys\nfrom pathlib import Path\nfrom autograder.grading.workers.lock import only_one\n"
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
