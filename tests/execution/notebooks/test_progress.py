"""Live bars in a terminal, plain lines in a log."""

import io
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from course_lib.execution.notebooks.progress import Bars, Lines, progress_for
from course_lib.execution.notebooks.results import Result

ROOT = Path(__file__).parents[3]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_one_line_for_each_cell():
    lines = []
    progress = Lines(lines.append)
    progress.begin(1)
    progress.cell("03_lora", 3, 40, 12.3, "model = load()")
    progress.end(Result("03_lora", "executed", seconds=78, memory=1_500_000_000))
    progress.close()
    assert lines == ["03_lora [ 3/40]   12.3 s  model = load()", "03_lora  executed after 78 s, 1.50 GB"]


def test_a_terminal_gets_a_bar_for_each_running_chapter():
    terminal = Terminal()
    progress = Bars(terminal)
    progress.begin(2)
    progress.cell("03_lora", 3, 40, 12.3, "model = load()")
    progress.cell("04_merging", 1, 9, 0.1, "import torch")
    shown = terminal.getvalue()
    assert "chapters         0/2" in shown
    assert re.search(r"03_lora +2/40 \|.*\| \d\d:\d\d.*model = load\(\)", shown)
    assert re.search(r"04_merging +0/9 ", shown)
    progress.end(Result("03_lora", "executed", seconds=78, memory=1_500_000_000))
    assert "03_lora  executed after 78 s, 1.50 GB\n" in terminal.getvalue()
    assert "chapters         1/2" in terminal.getvalue()
    progress.close()
    assert terminal.getvalue().rstrip("\n")[-1] in "\r ", "the bars are gone"


@pytest.mark.parametrize(
    ("file", "term", "kind"), [(Terminal, "xterm", Bars), (Terminal, "dumb", Lines), (io.StringIO, "xterm", Lines)]
)
def test_who_looks_on_decides(file, term, kind, monkeypatch):
    monkeypatch.setenv("TERM", term)
    assert type(progress_for(file(), print)) is kind


@pytest.mark.slow
def test_the_command_in_a_real_terminal_and_in_a_pipe(chapter, tmp_path):
    path = chapter("x = 1", "y = 2").path
    command = [sys.executable, "-m", "course_lib.cli", "run", str(path), "--profile", "smoke", "--force"]
    command += ["--out", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
    piped = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert "01_tiny [ 3/4]" in piped.stdout
    assert "\r" not in piped.stdout + piped.stderr

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # Linux's way to say that the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0, shown.decode()
    assert re.search(rb"\r01_tiny +\d/4 \|", shown), shown
    assert b"01_tiny  executed after" in shown
