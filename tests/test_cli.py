"""The `course` command: quick help, clear errors, exit statuses."""

import subprocess
import sys
import time

import pytest

from course_lib import cli


def course(*arguments, **options):
    command = [sys.executable, "-m", "course_lib.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_help_is_quick_and_names_every_command():
    times = []
    for _ in range(3):
        started = time.perf_counter()
        done = course("--help")
        times.append(time.perf_counter() - started)
    assert done.returncode == 0
    assert done.stderr == ""
    for command in ("run", "book", "weights", "assignment", "grade"):
        assert f"\n    {command}" in done.stdout
    assert min(times) < 1.0, times  # 0.1 s here when idle; torch alone would take longer than the limit


@pytest.mark.parametrize("command", ["run", "book", "weights", "assignment", "grade"])
def test_each_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main([command, "--help"])
    assert done.value.code == 0
    assert len(capsys.readouterr().out) > 200


def test_a_mistake_is_one_line_without_a_traceback():
    done = course("run", "42")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("course: '42' is no chapter")


def test_outside_a_clone_is_explained(tmp_path):
    done = course("run", cwd=tmp_path)
    assert done.returncode == 2
    assert "not inside a clone" in done.stderr


def test_impossible_options(capsys):
    assert cli.main(["run", "03", "--jobs", "0"]) == 2
    assert "--jobs 0" in capsys.readouterr().err


def test_list_and_weights(capsys):
    assert cli.main(["run", "--list"]) == 0
    assert "03_lora" in capsys.readouterr().out
    assert cli.main(["weights"]) == 0
    assert "smollm2-135m-instruct" in capsys.readouterr().out
