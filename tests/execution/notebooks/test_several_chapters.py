"""`course run` with several chapters at a time: what is started, said and left, also when one fails or all are stopped.

The worker of these tests executes a notebook's cells in plain Python, so that no kernel has to start. Tests that need
two things to happen at once wait for files and never for a number of seconds.
"""

import argparse
import json
import re
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from course_lib.commands import run as command
from course_lib.errors import CourseError
from course_lib.execution.environment import THREAD_VARIABLES, kernel_environment
from course_lib.execution.notebooks import runner as runner_module
from course_lib.execution.notebooks.progress import Lines
from course_lib.execution.notebooks.project import find_chapters
from course_lib.execution.notebooks.runner import Runner
from course_lib.execution.notebooks.side_by_side import ChapterQueue

# What the real worker tells, without Jupyter. A cell may use `wait_for(path)`; the task's JSON is the only argument.
FAKE_WORKER = """
import json, os, sys, time
task = json.loads(sys.argv[1])
cells = [c for c in json.load(open(task["notebook"]))["cells"] if c["cell_type"] == "code"]

def tell(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)

def wait_for(path):
    deadline = time.monotonic() + 60
    while not os.path.exists(path):
        assert time.monotonic() < deadline, "nobody wrote " + str(path)
        time.sleep(0.01)

names = dict(task["parameters"], wait_for=wait_for)
for number, cell in enumerate(cells[1:], start=3):
    source = "".join(cell["source"])
    tell("cell", cell=number, cells=len(cells) + 1, line=source.strip().splitlines()[0])
    try:
        exec(source, names)
    except Exception as error:
        tell("failed", error=f"{type(error).__name__}: {error}")
        sys.exit(1)
    tell("cell done", seconds=0.1, cpu_seconds=0.1, memory=1)
with open(task["output"], "w") as file:
    json.dump({"cells": [], "metadata": {}}, file)
tell("done")
"""


@pytest.fixture
def side(chapter, machine, monkeypatch, tmp_path):
    """side({name: (code, memory in GB, seconds)}, memory_gb=…) runs chapters with the fake worker."""
    real = subprocess.Popen

    def fake_popen(arguments, **options):
        if arguments[1:3] != ["-m", "course_lib.execution.notebooks.worker"]:  # git, for one
            return real(arguments, **options)
        return real([sys.executable, "-S", "-c", FAKE_WORKER, arguments[3]], **options)

    monkeypatch.setattr(runner_module.subprocess, "Popen", fake_popen)
    for name in THREAD_VARIABLES:  # what the user has set lower stays, and the tests' own run sets them
        monkeypatch.delenv(name, raising=False)
    machine()

    def run(cells, *, only=None, threads=1, device="cpu", jobs=None, **look):
        if look:
            machine(**look)
        profile = tmp_path / "own.toml"
        lines = [f'device = "{device}"', f"threads = {threads}"]
        for name, (_, memory, seconds) in cells.items():
            lines.append(f'["{name}"]\ncost = {{ memory_gb = {memory}, seconds = {seconds} }}')
        profile.write_text("\n".join(lines))
        chapters = [chapter(cells[name][0], name=name) for name in only or cells]
        runner = Runner(tmp_path / "out", str(profile), jobs=jobs, progress=Lines(run.lines.append))
        run.runner = runner
        return runner.run(chapters)

    run.lines, run.out = [], tmp_path / "out"
    return run


def meeting(tmp_path, mine, other):
    """A cell that ends only while the other chapter runs too."""
    return f"open({str(tmp_path / mine)!r}, 'w').close()\nwait_for({str(tmp_path / other)!r})"


def arguments(given):
    """What `course run` makes of its command line."""
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(["run", *given])


def begun(lines):
    """The chapters in the order in which they began."""
    return list(dict.fromkeys(line.split()[0] for line in lines))


class TestRun:
    def test_two_run_at_the_same_time_without_being_told(self, side, tmp_path):
        cells = {"01_a": (meeting(tmp_path, "a", "b"), 1, 1), "02_b": (meeting(tmp_path, "b", "a"), 1, 1)}
        assert [result.status for result in side(cells)] == ["executed", "executed"]

    def test_the_longest_begins_and_the_results_keep_the_order_that_was_asked_for(self, side):
        cells = {"01_short": ("a = 1", 1, 5), "02_long": ("a = 1", 1, 500), "03_middle": ("a = 1", 1, 50)}
        results = side(cells, cores=1)
        assert [result.chapter for result in results] == list(cells)
        assert begun(side.lines) == ["02_long", "03_middle", "01_short"]

    def test_two_that_do_not_fit_run_one_after_the_other(self, side, tmp_path, monkeypatch):
        """The first one ends only when the other waits for its memory."""
        waits, taken = tmp_path / "waits", []
        take, wait = ChapterQueue.take, threading.Condition.wait

        def spied_take(queue):
            monkeypatch.setattr(queue.changed, "wait", lambda *t: (waits.touch(), wait(queue.changed, *t)))
            chapter = take(queue)
            taken.append(sorted(each.id for each in queue.running))
            return chapter

        monkeypatch.setattr(ChapterQueue, "take", spied_take)
        cells = {"01_a": (f"wait_for({str(waits)!r})", 3, 9), "02_b": ("a = 1", 3, 1)}
        assert [result.status for result in side(cells, memory_gb=5)] == ["executed", "executed"]
        assert ["01_a", "02_b"] not in taken
        assert begun(side.lines) == ["01_a", "02_b"]

    def test_a_gpu_is_not_shared(self, side, tmp_path, monkeypatch):
        monkeypatch.setattr(runner_module, "check_hardware", lambda *_: None)  # there may be none here
        alone = "import os\nfd = os.open({!r}, os.O_CREAT | os.O_EXCL)\nos.close(fd)\nos.remove({!r})"
        code = alone.format(*[str(tmp_path / "gpu")] * 2)
        results = side({"01_a": (code, 1, 1), "02_b": (code, 1, 1)}, device="cuda", cores=8)
        assert [result.status for result in results] == ["executed", "executed"]
        assert begun(side.lines) == ["01_a", "02_b"]

    @pytest.mark.parametrize(
        "bad", ["1 / 0", "raise SystemExit(3)", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"]
    )
    def test_a_failing_chapter_does_not_lose_the_others(self, side, tmp_path, bad):
        """The failing one runs beside one that ends after it, and before one that has not begun."""
        ended, go = tmp_path / "ended", tmp_path / "go"
        cells = {
            "01_beside": (f"wait_for({str(go)!r})", 1, 90),
            "02_bad": (bad, 1, 80),
            "03_after": (f"open({str(go)!r}, 'w').close()\nopen({str(ended)!r}, 'w').close()", 1, 70),
        }
        results = side(cells)
        assert [result.status for result in results] == ["executed", "failed", "executed"]
        assert results[1].message.startswith("02_bad failed in cell 3 of 3")
        assert sorted(path.name for path in side.out.iterdir()) == ["01_beside", "03_after"]
        assert (side.out / "03_after/metrics.json").is_file()

    def test_the_command_fails_and_names_the_failed_chapter(self, side, chapter, monkeypatch, capsys, tmp_path):
        chapters = [chapter("1 / 0", name="01_bad"), chapter("a = 1", name="02_good")]
        args = arguments(["--profile", "smoke"])
        assert command._run(args, chapters, tmp_path / "out") == 1
        said = capsys.readouterr()
        assert "course: 01_bad failed in cell 3 of 3, `1 / 0`: ZeroDivisionError" in said.err
        assert re.search(r"02_good +executed", said.out)

    def test_an_interruption_leaves_nothing_running_and_starts_nothing_more(self, side, tmp_path, monkeypatch):
        code = f"""
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
folder = pathlib.Path({str(tmp_path)!r})
half = folder / (str(os.getpid()) + ".half")
half.write_text(str(child.pid))
half.rename(half.with_suffix(".pids"))
time.sleep(600)
"""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # under nohup it would be ignored

        def press_ctrl_c():
            deadline = time.monotonic() + 60
            while len(list(tmp_path.glob("*.pids"))) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        try:
            threading.Thread(target=press_ctrl_c, daemon=True).start()
            with pytest.raises(KeyboardInterrupt):
                side({f"0{i}_sleeps": (code, 1, 1) for i in (1, 2, 3)})
        finally:
            signal.signal(signal.SIGINT, before)
        pids = [int(text) for path in tmp_path.glob("*.pids") for text in (path.stem, path.read_text())]
        assert len(pids) == 4, "two chapters of three had begun"
        assert [pid for pid in pids if is_running(pid)] == []
        assert sorted(begun(side.lines)) == ["01_sleeps", "02_sleeps"]
        assert list(side.out.iterdir()) == []

    @pytest.mark.parametrize("full", ["01_a", "02_b"])
    def test_an_error_of_ours_in_one_thread_stops_the_other(self, side, tmp_path, monkeypatch, full):
        """A full disk, say: the run ends with that error, and nothing goes on behind its back."""
        publish, other = Runner._publish, {"01_a": "02_b", "02_b": "01_a"}[full]

        def refusing(runner, chapter, *rest):
            if chapter.id == full:
                raise OSError(28, "No space left on device")
            publish(runner, chapter, *rest)

        monkeypatch.setattr(Runner, "_publish", refusing)
        sleeps = "import os, time\nopen('new', 'w').write(str(os.getpid()))\n"
        sleeps += f"os.rename('new', {str(tmp_path / 'pid')!r})\ntime.sleep(600)"
        cells = {full: (f"wait_for({str(tmp_path / 'pid')!r})", 1, 9), other: (sleeps, 1, 9)}
        with pytest.raises(OSError, match="No space left"):
            side(dict(sorted(cells.items())))
        assert not is_running(int((tmp_path / "pid").read_text()))
        assert list(side.out.iterdir()) == []


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class TestThreads:
    @pytest.mark.parametrize(("count", "threads"), [(2, "1"), (1, "2")])
    def test_each_library_is_told_its_chapters_share(self, side, count, threads):
        code = "import json, os, pathlib\npathlib.Path('outputs').mkdir()\n"
        code += "json.dump(dict(os.environ), open('outputs/environment.json', 'w'))"
        results = side({f"0{i}_tell": (code, 1, 1) for i in range(count)}, threads=2)
        for result in results:
            environment = json.loads((side.out / result.chapter / "outputs/environment.json").read_text())
            assert {environment[name] for name in THREAD_VARIABLES} == {threads}
            assert environment["TOKENIZERS_PARALLELISM"] == "false"
            assert result.threads == int(threads)
            assert json.loads((side.out / result.chapter / "metrics.json").read_text())["threads"] == int(threads)

    def test_who_asks_for_more_jobs_than_cores_gets_one_thread_each(self, side):
        results = side({f"0{i}_a": ("a = 1", 1, 1) for i in range(3)}, threads=2, jobs=3)
        assert [result.threads for result in results] == [1, 1, 1]

    def test_numpy_and_torch_obey(self, tmp_path):
        """Both are asked to multiply, and then the threads of the process are counted (Linux) or torch is asked."""
        code = """
import os, numpy as np
np.ones((600, 600), dtype=np.float32) @ np.ones((600, 600), dtype=np.float32)
tasks = "/proc/self/task"
print(len(os.listdir(tasks)) if os.path.isdir(tasks) else 1)
import torch
before = len(os.listdir(tasks)) if os.path.isdir(tasks) else 1
torch.ones(600, 600) @ torch.ones(600, 600)
print(torch.get_num_threads(), (len(os.listdir(tasks)) if os.path.isdir(tasks) else 1) - before)
"""
        environment = kernel_environment(tmp_path, threads=1)
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["1", "1", "0"]

    def test_a_lower_number_of_the_users_stays(self, tmp_path, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setenv("MKL_NUM_THREADS", "many")
        monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        environment = kernel_environment(tmp_path, threads=4)
        assert [environment[n] for n in THREAD_VARIABLES[:3]] == ["1", "4", "4"]


class TestProgress:
    def test_each_line_says_whose_it_is_and_how_far(self, side, tmp_path):
        cells = {"01_a": (meeting(tmp_path, "a", "b"), 1, 1), "02_b": (meeting(tmp_path, "b", "a"), 1, 1)}
        side(cells)
        cells_begun, ended = ([line for line in side.lines if ("[" in line) is begun] for begun in (True, False))
        assert sorted(line.split()[0] for line in cells_begun) == ["01_a", "02_b"]
        assert sorted(line.split()[0:2] for line in ended) == [["01_a", "executed"], ["02_b", "executed"]]
        for line in cells_begun:
            assert re.fullmatch(r"0\d_\w \[ 3/3\] +\d+\.\d s  open\(.{,65}", line)

    def test_what_is_unchanged_is_said_and_takes_no_place(self, side):
        cells = {"01_a": ("a = 1", 1, 1), "02_b": ("a = 1", 1, 1)}
        side(cells)
        side.lines.clear()
        assert [result.status for result in side(cells)] == ["unchanged", "unchanged"]
        assert side.lines == ["01_a  unchanged, skipped", "02_b  unchanged, skipped"]

    def test_a_line_is_written_in_one_piece(self, monkeypatch):
        """`print` writes the line's end by itself, and another thread's line may come between."""
        written = []
        screen = argparse.Namespace(write=written.append, flush=lambda: None)
        monkeypatch.setattr(sys, "stdout", screen)
        command._say("01_a [ 3/4]    0.1 s  a = 1")
        monkeypatch.undo()
        assert written == ["01_a [ 3/4]    0.1 s  a = 1\n"]

    @pytest.mark.parametrize(("text", "jobs"), [("auto", None), ("3", 3)])
    def test_the_option(self, text, jobs):
        assert command._jobs(text) == jobs
        with pytest.raises(argparse.ArgumentTypeError, match="'all' is neither a number nor auto"):
            command._jobs("all")


def needing(chapter, name, *needed):
    """The chapter's file, with `needs` in its metadata."""
    path = chapter("a = 1", name=name).path
    notebook = json.loads(path.read_text())
    notebook["metadata"]["course"] = {"needs": list(needed)}
    path.write_text(json.dumps(notebook))
    return path


class TestNeeds:
    """A chapter that reads another one's results."""

    @pytest.fixture
    def two(self, side, chapter, monkeypatch):
        """two(code of 01_first) runs it and 02_second, which needs it and is the longer one."""
        made = Runner._checked

        def checked(runner, chapters):
            for each in chapters:
                if each.id == "02_second":
                    notebook = json.loads(each.path.read_text())
                    notebook["metadata"]["course"] = {"needs": ["01_first"]}
                    each.path.write_text(json.dumps(notebook))
            return made(runner, chapters)

        monkeypatch.setattr(Runner, "_checked", checked)
        read = "assert open('../01_first/outputs/made').read()"
        write = "import os\nos.mkdir('outputs')\nprint({!r}, file=open('outputs/made', 'w'))"

        def run(text="made", code=None, only=None):
            cells = {"01_first": (code or write.format(text), 1, 1), "02_second": (read, 1, 99)}
            side.lines.clear()
            return side(cells, only=only, cores=2)

        return run

    def test_it_starts_when_the_other_has_ended(self, two, side):
        assert [result.status for result in two()] == ["executed", "executed"]
        assert begun(side.lines) == ["01_first", "02_second"]

    def test_it_runs_again_when_the_other_changed(self, two):
        two()
        assert [result.status for result in two()] == ["unchanged", "unchanged"]
        assert [result.status for result in two("other")] == ["executed", "executed"]

    def test_alone_it_takes_what_lies_there(self, two):
        two()
        assert [result.status for result in two(only=["02_second"])] == ["unchanged"]
        two("other", only=["01_first"])
        assert [result.status for result in two(only=["02_second"])] == ["executed"]

    def test_it_does_not_run_when_the_other_failed(self, two):
        first, second = two(code="1 / 0")
        assert (first.status, second.status) == ("failed", "failed")
        assert second.message == "02_second was not run: it needs 01_first, which failed"

    def test_a_circle_is_refused(self, chapter, tmp_path):
        chapters = find_chapters([str(needing(chapter, "01_a", "02_b")), str(needing(chapter, "02_b", "01_a"))])
        with pytest.raises(CourseError, match="in a circle: 01_a -> 02_b -> 01_a"):
            Runner(tmp_path / "out", "smoke").run(chapters)

    def test_what_is_needed_must_exist(self, chapter, tmp_path):
        with pytest.raises(CourseError, match="02_b.ipynb needs '01_a', and there is no 01_a.ipynb beside it"):
            Runner(tmp_path / "out", "smoke").run(find_chapters([str(needing(chapter, "02_b", "01_a"))]))

    def test_needs_is_a_list(self, chapter, tmp_path):
        path = needing(chapter, "01_a")
        path.write_text(path.read_text().replace('"needs": []', '"needs": "02_b"'))
        with pytest.raises(CourseError, match="`needs` is '02_b' and has to be a list"):
            Runner(tmp_path / "out", "smoke").run(find_chapters([str(path)]))
