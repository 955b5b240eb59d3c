"""Temporary folders of a grading: a killed run leaves one, and the next run removes it."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile

import pytest

from autograder import course
from autograder.grading.run import grade
from autograder.grading.workers.scratch import scratch_folder

HOLD = """
import os, sys, time
from autograder.grading.workers.scratch import scratch_folder
with scratch_folder("grade") as (folder, held):
    (folder / "answers").mkdir()
    if sys.argv[1] == "child" and os.fork() == 0:  # it goes on when its parent is killed
        time.sleep(60)
    print(folder, os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


@pytest.fixture
def held():
    """Starts a process that has a folder."""
    started = []

    def start(how):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, how], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        return process, process.stdout.readline().split()[0]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_it_is_there_and_empty_within_and_gone_afterwards(place):
    with scratch_folder("grade") as (folder, _):
        assert folder.parent == place
        assert folder.name.startswith("course-grade-")
        assert list(folder.iterdir()) == []
        (folder / "file").write_text("x")
    assert list(place.iterdir()) == []


def test_what_a_killed_run_left_goes_and_what_another_holds_stays(place, held):
    killed, left = held("alone")
    _, used = held("alone")
    killed.kill()
    killed.wait()
    assert os.path.isdir(left)
    with scratch_folder("grade") as (folder, _):
        assert {str(each) for each in place.iterdir()} == {used, str(folder)}
    assert os.path.isdir(f"{used}/answers")


def test_it_stays_as_long_as_a_child_of_the_killed_run_has_it(place, held):
    killed, used = held("child")
    killed.kill()
    killed.wait()
    with scratch_folder("grade"):
        assert os.path.isdir(f"{used}/answers")
    os.killpg(killed.pid, signal.SIGKILL)
    end = killed.stdout.read()  # until the child is gone too
    assert end == ""
    with scratch_folder("grade"):
        assert not os.path.exists(used)


def test_nothing_else_is_touched(place, tmp_path):
    (place / "course-judge-1").mkdir()
    (place / "course-grade-notes.txt").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (place / "course-grade-link").symlink_to(tmp_path / "elsewhere")
    with scratch_folder("grade"):
        pass
    assert sorted(each.name for each in place.iterdir()) == [
        "course-grade-link",
        "course-grade-notes.txt",
        "course-judge-1",
    ]
    assert (tmp_path / "elsewhere").is_dir()


def test_an_error_leaves_no_folder(place):
    with pytest.raises(KeyError), scratch_folder("grade"):
        raise KeyError("x")
    assert list(place.iterdir()) == []


def test_grading_removes_what_a_killed_grading_left(place, tmp_path):
    (place / "course-grade-left").mkdir()
    (place / "course-grade-left" / "answers").write_text("x")
    assignment = grade.placed(course.find("datasets"), tmp_path / "course")
    with grade._at_work(assignment, tmp_path / "course", print) as (_, folder):
        assert {each.name for each in place.glob("course-grade-*")} == {folder.name}
