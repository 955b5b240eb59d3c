"""`course run`'s engine, on tiny chapters: what it writes, skips, says and never leaves behind."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from course_lib.errors import CourseError
from course_lib.execution.notebooks.progress import Lines
from course_lib.execution.notebooks.project import find_chapters
from course_lib.execution.notebooks.results import content_hash
from course_lib.execution.notebooks.runner import Runner
from course_lib.execution.profile import profile_path, read_profile

RECORD = """
import json, pathlib
pathlib.Path(output_dir).mkdir()
(pathlib.Path(output_dir) / "record.json").write_text(json.dumps({"answer": 42.0, "profile": profile, "seed": seed}))
print("hello")
"""


def run(chapters, out, **options):
    lines = []
    options.setdefault("profile", "smoke")
    return Runner(out, progress=Lines(lines.append), **options).run(chapters), lines


def hidden(out):
    return sorted(path.name for path in out.iterdir() if path.name.startswith(".") and path.name != ".failed")


def test_a_finished_chapter(chapter, tmp_path):
    (result,), lines = run([chapter(RECORD, "x = b'x' * 300_000_000")], tmp_path / "out", seed=7)
    assert result.status == "executed"
    metrics = json.loads((tmp_path / "out/01_tiny/metrics.json").read_text())
    assert metrics["recorded"] == {"answer": 42.0, "profile": "smoke", "seed": 7}
    assert 300_000_000 < metrics["peak_memory_bytes"] < 700_000_000
    assert [(cell["cell"], cell["line"]) for cell in metrics["cells"]][1] == (4, "x = b'x' * 300_000_000")
    assert 0 < sum(cell["seconds"] for cell in metrics["cells"]) < metrics["duration_s"]
    assert metrics["duration_s"] > 0
    assert metrics["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert metrics["hardware"]["cores"] >= 1
    text = (tmp_path / "out/01_tiny/notebook.ipynb").read_text()
    assert "hello" in text
    assert str(tmp_path) not in text, "an executed notebook must not show this machine's paths"
    assert hidden(tmp_path / "out") == []
    assert (tmp_path / "out/01_tiny").stat().st_mode & 0o777 == (tmp_path / "out").stat().st_mode & 0o777
    assert any("[ 3/4]" in line and "import json" in line for line in lines)


def test_unchanged_is_skipped_until_something_changes(chapter, tmp_path):
    out = tmp_path / "out"
    run([chapter("a = 1")], out)
    (again,), lines = run([chapter("a = 1")], out)
    assert again.status == "unchanged"
    assert lines == ["01_tiny  unchanged, skipped"]
    (forced,), _ = run([chapter("a = 1")], out, force=True)
    assert forced.status == "executed"
    (changed,), _ = run([chapter("a = 2")], out)
    assert changed.status == "executed"


def test_what_counts_as_a_change(chapter, monkeypatch):
    def of(source="a = 1", profile="smoke", **parameters):
        return content_hash(chapter(source), read_profile(profile_path(profile)), parameters)

    same = of(seed=0)
    assert of(seed=0) == same
    assert len({same, of(seed=1), of(source="a = 2", seed=0), of(profile="cpu", seed=0)}) == 4
    monkeypatch.setattr("course_lib.execution.notebooks.results.versions", lambda: {"numpy": "0.0"})
    assert of(seed=0) != same


def test_a_change_of_course_lib_counts_and_its_caches_do_not(chapter, tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr("course_lib.__file__", str(package / "__init__.py"))
    of = lambda: content_hash(chapter("a = 1"), read_profile(profile_path("smoke")), {})  # noqa: E731
    before = of()
    for name in ("__pycache__/x.pyc", ".ruff_cache/x", ".x.py.swp"):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text("x")
    assert of() == before
    (package / "data.txt").write_text("x")
    assert of() != before


def test_a_failing_cell_is_named_and_the_last_good_result_stays(chapter, tmp_path):
    out = tmp_path / "out"
    run([chapter("a = 1")], out)
    (result,), _ = run([chapter("a = 1", "# a comment\nb = a / 0\nprint(b)")], out)
    assert result.status == "failed"
    assert "01_tiny failed in cell 4 of 4, `b = a / 0`: ZeroDivisionError: division by zero" in result.message
    partial = Path(result.message.split("partial notebook is ")[1])
    assert "ZeroDivisionError" in partial.read_text()
    assert "a = 1" in (out / "01_tiny/notebook.ipynb").read_text()
    assert "b = a / 0" not in (out / "01_tiny/notebook.ipynb").read_text()
    assert hidden(out) == []
    run([chapter("a = 2")], out)
    assert not partial.exists(), "a chapter that runs again has no failed notebook"


def test_a_dead_kernel_is_named(chapter, tmp_path):
    (result,), _ = run([chapter("import os\nos._exit(1)")], tmp_path / "out")
    assert "in cell 3 of 3, `import os`: the kernel died" in result.message


ENDLESS = """
import pathlib, time
(pathlib.Path({folder!r}) / "begun").touch()
while not (pathlib.Path({folder!r}) / "never").exists():
    time.sleep(0.05)
"""


def test_time_limit(chapter, tmp_path, monkeypatch):
    """The cell ends by nothing but the limit, so that the message alone shows that the limit was kept."""

    class TimerOfTheTest(threading.Thread):
        """Fires when the cell has begun, however slow this machine is."""

        def __init__(self, seconds, function):
            super().__init__(daemon=True)
            assert seconds == 4
            self.function, self.cancelled = function, threading.Event()

        def run(self):
            while not self.cancelled.wait(0.05):
                if (tmp_path / "begun").exists():
                    return self.function()

        def cancel(self):
            self.cancelled.set()
            self.join()

    monkeypatch.setattr("course_lib.execution.notebooks.runner.threading.Timer", TimerOfTheTest)
    (result,), _ = run([chapter(ENDLESS.format(folder=str(tmp_path)))], tmp_path / "out", timeout=4)
    assert result.status == "failed"
    assert "in cell 3 of 3, `import pathlib, time`: the chapter took longer than --timeout 4 s" in result.message
    assert ".failed/01_tiny.ipynb" in result.message


def test_time_limit_by_the_clock(chapter, tmp_path):
    """With the real timer, and again a chapter that would never end by itself."""
    (result,), _ = run([chapter(ENDLESS.format(folder=str(tmp_path)))], tmp_path / "out", timeout=1)
    assert result.status == "failed"
    assert "the chapter took longer than --timeout 1 s" in result.message


def test_one_failure_stops_nobody_else(chapter, tmp_path):
    chapters = [chapter("1/0", name="01_bad"), chapter("a = 1", name="02_good")]
    results, _ = run(chapters, tmp_path / "out", jobs=2)
    assert [result.status for result in results] == ["failed", "executed"]


def test_two_jobs_run_at_the_same_time(chapter, tmp_path):
    """Each waits for the other's file: one after the other they would never end."""
    meet = """
import pathlib, time
mine, other = (pathlib.Path({folder!r}) / name for name in {names})
mine.touch()
while not other.exists():
    time.sleep(0.05)
"""
    sources = [meet.format(folder=str(tmp_path), names=names) for names in (("a", "b"), ("b", "a"))]
    chapters = [chapter(source, name=f"0{i}_meet") for i, source in enumerate(sources)]
    results, _ = run(chapters, tmp_path / "out", jobs=2, timeout=60)
    assert [result.status for result in results] == ["executed", "executed"], [r.message for r in results]


PRINTS_BELOW_PYTHON = """
import os, pathlib, subprocess
os.system("echo not json")
os.write(1, b"{}")
child = subprocess.Popen(["sleep", "3600"], start_new_session=True)
pathlib.Path(output_dir).mkdir()
(pathlib.Path(output_dir) / "pid").write_text(str(child.pid))
"""


def test_compiled_code_may_print_and_nothing_outlives_the_chapter(chapter, tmp_path):
    (result,), _ = run([chapter(PRINTS_BELOW_PYTHON)], tmp_path / "out")
    assert result.status == "executed", result.message
    assert not is_running(int((tmp_path / "out/01_tiny/outputs/pid").read_text()))


def test_a_killed_worker_is_told_and_its_kernel_ends(chapter, tmp_path):
    """As the kernel of the operating system does when memory runs out."""
    source = f"""
import os, pathlib, signal, time
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(60)
"""
    (result,), _ = run([chapter(source)], tmp_path / "out")
    assert "was killed by SIGKILL" in result.message
    _wait_for(lambda: not is_running(int((tmp_path / "pid").read_text())), 10)
    assert hidden(tmp_path / "out") == []


def test_a_users_own_profile_travels_with_the_result(chapter, tmp_path):
    own = tmp_path / "elsewhere" / "mine.toml"
    own.parent.mkdir()
    own.write_text('device = "cpu"\nthreads = 1\n["01_tiny"]\nsteps = 17\n')
    source = "from course_lib.execution import load_profile\nassert load_profile(profile, '01_tiny').steps == 17"
    (result,), _ = run([chapter(source)], tmp_path / "out", profile=str(own))
    assert result.status == "executed", result.message
    assert str(tmp_path) not in (tmp_path / "out/01_tiny/notebook.ipynb").read_text()
    assert json.loads((tmp_path / "out/01_tiny/metrics.json").read_text())["profile"] == "mine"


def test_what_cannot_be_given_its_parameters_is_refused_before_anything_runs(chapter, tmp_path):
    good, bad = chapter("a = 1", name="01_good"), chapter("a = 1", name="02_bad", parameters=False)
    with pytest.raises(CourseError, match="02_bad.ipynb has 0 cells tagged `parameters`"):
        run([good, bad], tmp_path / "out")
    bad = chapter("a = 1", name="02_bad", parameters='profile: str = "cpu"\noutput_dir = "x"')
    with pytest.raises(CourseError, match="`parameters` cell of 02_bad.ipynb does not set: seed"):
        run([good, bad], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refusals(chapter, tmp_path):
    one = chapter("a = 1")
    other = Path(shutil.copytree(one.path.parent, tmp_path / "copy")) / one.path.name
    with pytest.raises(CourseError, match="would both be written to 01_tiny"):
        run([one, *find_chapters([str(other)])], tmp_path / "out")
    with pytest.raises(CourseError, match="Cannot write to --out"):
        run([one], one.path)
    one.path.write_text("{}")
    with pytest.raises(CourseError, match="is not a notebook"):
        run([one], tmp_path / "out")
    with pytest.raises(CourseError, match="no profile 'fast'"):
        run([one], tmp_path / "out", profile="fast")


def test_a_chapter_named_twice_runs_once(chapter, tmp_path):
    results, _ = run([chapter("a = 1"), chapter("a = 1")], tmp_path / "out")
    assert len(results) == 1


def test_the_kernel_is_this_interpreter_and_writes_nothing_to_home(chapter, tmp_path, monkeypatch):
    home = tmp_path / "home"
    kernels = home / ".local/share/jupyter/kernels/python3"
    kernels.mkdir(parents=True)
    impostor = {"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"}
    (kernels / "kernel.json").write_text(json.dumps(impostor))
    home.chmod(0o500)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MPLBACKEND", "Agg")  # its figures would not appear in the notebook
    before = sorted(home.rglob("*"))
    checks = f"""
import os, sys
assert sys.executable == {sys.executable!r}
assert "inline" in os.environ["MPLBACKEND"]
assert os.environ["HF_HUB_OFFLINE"] == "1"
"""
    (result,), _ = run([chapter(checks)], tmp_path / "out")
    assert result.status == "executed", result.message
    assert sorted(home.rglob("*")) == before


def test_names_of_chapters(chapter, tmp_path):
    path = chapter("a = 1").path
    assert find_chapters([str(path)])[0].id == "01_tiny"
    assert find_chapters(["03"])[0].id == find_chapters(["03_lora"])[0].id == "03_lora"
    assert find_chapters(["03"])[0].title().startswith("LoRA")
    assert find_chapters(["03"])[0].parameters() == {"profile", "seed", "output_dir"}
    with pytest.raises(CourseError, match="'42' is not a chapter; the chapters are: .*03_lora"):
        find_chapters(["42"])


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_stopped_run_leaves_no_kernel_and_no_half_result(chapter, tmp_path, stop):
    """The cell writes its kernel's pid and sleeps; the whole family must be gone soon after the signal."""
    pid_file, out = tmp_path / "pid", tmp_path / "out"
    source = f"import os, pathlib, time\npathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\ntime.sleep(120)"
    path = chapter(source).path
    command = [sys.executable, "-m", "course_lib.cli", "run", str(path), "--profile", "smoke", "--out", str(out)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet, preexec_fn=_hear_all_signals)
    _wait_for(lambda: pid_file.is_file() and pid_file.read_text(), 60)
    process.send_signal(stop)
    for _ in range(3 * (stop == signal.SIGINT)):  # an impatient user
        time.sleep(0.02)
        process.send_signal(stop)
    returned = process.wait(timeout=30)
    _wait_for(lambda: not is_running(int(pid_file.read_text())), 10)

    if stop == signal.SIGKILL:  # the worker, now without a parent, cleans up
        _wait_for(lambda: hidden(out) == [], 10)
    else:
        assert returned in (128 + stop, -stop)  # -2: one more Ctrl-C came while Python was closing
    assert list(out.iterdir()) == []


def _hear_all_signals():
    """A shell's `&` has a child ignore SIGINT, and `nohup` SIGHUP: the children of that child ignore them, too."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def test_a_setting_in_place_of_the_profiles_travels_with_the_result(chapter, tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text('extends = "smoke"\n["01_tiny"]\nsteps = 17\nlr = 1e-3\n')
    source = (
        "from course_lib.execution import load_profile\n"
        "settings = load_profile(profile, '01_tiny')\nassert (settings.steps, settings.lr) == (17, 1e-4)"
    )
    changes = ["01_tiny.lr=1e-4"]  # a number all the way: papermill alone would hand on a text
    (result,), _ = run([chapter(source)], tmp_path / "out", profile=str(own), overrides=changes)
    assert result.status == "executed", result.message


def test_a_mistake_in_the_profile_is_said_before_anything_runs(chapter, tmp_path):
    with pytest.raises(CourseError, match=r"no setting 03_lora.stpes. Did you mean steps\?"):
        run([chapter("a = 1")], tmp_path / "out", overrides=["03_lora.stpes=5"])
    assert not (tmp_path / "out" / "01_tiny").exists()
