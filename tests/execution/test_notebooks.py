"""`course run`'s engine, on tiny chapters: what it writes, skips, says and never leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from course_lib.errors import CourseError
from course_lib.execution.notebooks import Runner
from course_lib.execution.project import find_chapters

RECORD = """
import json, pathlib
pathlib.Path(output_dir).mkdir()
(pathlib.Path(output_dir) / "record.json").write_text(json.dumps({"answer": 42.0, "profile": profile, "seed": seed}))
print("hello")
"""


def run(chapters, out, **options):
    lines = []
    options.setdefault("profile", "smoke")
    return Runner(out, say=lines.append, **options).run(chapters), lines


def hidden(out):
    return sorted(path.name for path in out.iterdir() if path.name.startswith(".") and path.name != ".failed")


def test_a_finished_chapter(chapter, tmp_path):
    (result,), lines = run([chapter(RECORD, "x = bytearray(60_000_000)")], tmp_path / "out", seed=7)
    assert result.status == "executed"
    metrics = json.loads((tmp_path / "out/01_tiny/metrics.json").read_text())
    assert metrics["recorded"] == {"answer": 42.0, "profile": "smoke", "seed": 7}
    assert metrics["peak_memory_bytes"] > 60_000_000
    assert metrics["duration_s"] > 0
    assert metrics["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert metrics["hardware"]["cores"] >= 1
    text = (tmp_path / "out/01_tiny/notebook.ipynb").read_text()
    assert "hello" in text
    assert str(tmp_path) not in text, "an executed notebook must not show this machine's paths"
    assert hidden(tmp_path / "out") == []
    assert any("[ 3/4]" in line and "import json" in line for line in lines)


def test_unchanged_is_skipped_until_something_changes(chapter, tmp_path):
    out = tmp_path / "out"
    run([chapter("a = 1")], out)
    (again,), lines = run([chapter("a = 1")], out)
    assert again.status == "unchanged"
    assert lines == ["01_tiny  unchanged, skipped"]
    for options, cells in [
        ({"force": True}, "a = 1"),
        ({"seed": 1}, "a = 1"),
        ({}, "a = 2"),
        ({"profile": "cpu"}, "a = 2"),
    ]:
        (changed,), _ = run([chapter(cells)], out, **options)
        assert changed.status == "executed", options


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


def test_a_dead_kernel_is_named(chapter, tmp_path):
    (result,), _ = run([chapter("import os\nos._exit(1)")], tmp_path / "out")
    assert "in cell 3 of 3, `import os`: the kernel died" in result.message


def test_time_limit(chapter, tmp_path):
    started = time.perf_counter()
    (result,), _ = run([chapter("import time\ntime.sleep(60)")], tmp_path / "out", timeout=4)
    assert time.perf_counter() - started < 30
    assert "in cell 3 of 3, `import time`: the chapter took longer than --timeout 4 s" in result.message


def test_one_failure_stops_nobody_else(chapter, tmp_path):
    chapters = [chapter("1/0", name="01_bad"), chapter("a = 1", name="02_good")]
    results, _ = run(chapters, tmp_path / "out", jobs=2)
    assert [result.status for result in results] == ["failed", "executed"]


def test_a_chapter_without_parameters_cell_is_refused(chapter, tmp_path):
    with pytest.raises(CourseError, match="0 cells tagged `parameters`"):
        run([chapter("a = 1", parameters=False)], tmp_path / "out")


def test_the_kernel_is_this_interpreter_and_writes_nothing_to_home(chapter, tmp_path, monkeypatch):
    home = tmp_path / "home"
    kernels = home / ".local/share/jupyter/kernels/python3"
    kernels.mkdir(parents=True)
    impostor = {"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"}
    (kernels / "kernel.json").write_text(json.dumps(impostor))
    home.chmod(0o500)
    monkeypatch.setenv("HOME", str(home))
    before = sorted(home.rglob("*"))
    (result,), _ = run([chapter("import sys\nassert sys.executable == " + repr(sys.executable))], tmp_path / "out")
    assert result.status == "executed", result.message
    assert sorted(home.rglob("*")) == before


def test_names_of_chapters(chapter, tmp_path):
    path = chapter("a = 1").path
    assert find_chapters([str(path)])[0].id == "01_tiny"
    assert find_chapters(["03"])[0].id == find_chapters(["03_lora"])[0].id == "03_lora"
    assert find_chapters(["03"])[0].title().startswith("LoRA")
    with pytest.raises(CourseError, match="'42' is no chapter; the chapters are: .*03_lora"):
        find_chapters(["42"])


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_leaves_no_kernel_and_no_half_result(chapter, tmp_path, stop):
    """The cell writes its kernel's pid and sleeps; the whole family must be gone soon after the signal."""
    pid_file, out = tmp_path / "pid", tmp_path / "out"
    source = f"import os, pathlib, time\npathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\ntime.sleep(120)"
    path = chapter(source).path
    command = [sys.executable, "-m", "course_lib.cli", "run", str(path), "--profile", "smoke", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_for(lambda: pid_file.is_file() and pid_file.read_text(), 60)
    kernel = psutil.Process(int(pid_file.read_text()))
    process.send_signal(stop)
    returned = process.wait(timeout=30)
    _wait_for(lambda: not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE, 15)

    assert not (out / "01_tiny").exists()
    if stop == signal.SIGKILL:  # nobody was left to clean up: the next run does
        (result,), _ = run([chapter("a = 1")], out)
        assert result.status == "executed"
    else:
        assert returned == {signal.SIGINT: 130, signal.SIGTERM: 143}[stop]
    assert hidden(out) == []


def _wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def test_a_result_whose_replacement_was_killed_is_put_back(tmp_path, chapter):
    out = tmp_path / "out"
    run([chapter("a = 1")], out)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    os.replace(out / "01_tiny", out / f".old-{gone.pid}-01_tiny")
    (out / f".partial-{gone.pid}-01_tiny-abc").mkdir()
    run([chapter("b = 1", name="02_other")], out)
    assert sorted(path.name for path in out.iterdir()) == ["01_tiny", "02_other"]
    nbformat.read(out / "01_tiny/notebook.ipynb", as_version=4)
