"""A run's hidden folders: whose they are, when they are cleared, and how a result takes its place on a shared disk."""

import errno
import os
import subprocess
import sys
import time

import pytest

from course_lib.execution.notebooks import folders
from course_lib.execution.notebooks.folders import clear_what_killed_runs_left, hidden_folder, put_in_place
from course_lib.execution.notebooks.progress import Lines
from course_lib.execution.notebooks.runner import Runner


def of(tmp_path, kind, *, host=None, pid=None, chapter="01_tiny", age=0.0):
    """A hidden folder as another process made it."""
    path = hidden_folder(tmp_path, kind, chapter)
    path = path.with_name(
        path.name.replace(folders.host(), host or folders.host(), 1).replace(f"-{os.getpid()}-", f"-{pid}-", 1)
    )
    path.mkdir()
    (path / "notebook.ipynb").write_text("{}")
    for each in (path / "notebook.ipynb", path):
        os.utime(each, (time.time() - age,) * 2)
    return path


@pytest.fixture
def gone():
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def test_what_a_dead_process_of_this_host_left_goes(tmp_path, gone):
    of(tmp_path, "partial", pid=gone)
    clear_what_killed_runs_left(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_live_process_keeps_its_folder(tmp_path):
    kept = of(tmp_path, "partial", pid=os.getppid())
    clear_what_killed_runs_left(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]


def test_a_process_that_got_the_number_of_a_dead_one_does_not_count(tmp_path):
    """As after a restart of the machine: the number lives, and began long after the folder's last change."""
    of(tmp_path, "partial", pid=os.getppid(), age=10 * 365 * 86400)
    clear_what_killed_runs_left(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_hosts_folder_stays_until_it_is_old(tmp_path, gone):
    """Its process id says nothing here, even where no process of this host has it."""
    young = of(tmp_path, "partial", host="c401_101", pid=gone, age=folders.OLD / 2)
    of(tmp_path, "partial", host="c401_102", pid=os.getppid(), age=folders.OLD * 2)
    clear_what_killed_runs_left(tmp_path)
    assert list(tmp_path.iterdir()) == [young]


def test_a_file_that_is_still_written_keeps_a_folder_young(tmp_path):
    kept = of(tmp_path, "partial", host="c401_101", pid=1, age=folders.OLD * 2)
    os.utime(kept / "notebook.ipynb")
    os.utime(kept, (0, 0))
    clear_what_killed_runs_left(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]


def test_an_old_result_whose_replacement_never_came_is_put_back(tmp_path, gone):
    of(tmp_path, "old", pid=gone)
    of(tmp_path, "old", pid=gone, chapter="02_there")
    (tmp_path / "02_there").mkdir()
    (tmp_path / ".old-stuff").mkdir()  # not ours
    clear_what_killed_runs_left(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".old-stuff", "01_tiny", "02_there"]
    assert (tmp_path / "01_tiny/notebook.ipynb").is_file()
    assert not (tmp_path / "02_there/notebook.ipynb").exists()


def test_a_run_clears_before_it_starts(tmp_path, gone):
    of(tmp_path, "partial", pid=gone)
    Runner(tmp_path, "smoke", progress=Lines(lambda line: None)).run([])
    assert list(tmp_path.iterdir()) == []


def test_names_differ_and_carry_no_other_hyphen(tmp_path, monkeypatch):
    monkeypatch.setattr(folders.socket, "gethostname", lambda: "c401-101.ls6.tacc")
    first, second = (hidden_folder(tmp_path, "partial", "03_lora") for _ in range(2))
    assert first != second
    named = folders.NAMED.fullmatch(first.name)
    assert (named["host"], int(named["pid"]), named["chapter"]) == ("c401_101_ls6_tacc", os.getpid(), "03_lora")


def test_another_run_may_publish_between_the_two_renames(tmp_path, monkeypatch):
    new, final = tmp_path / "new", tmp_path / "final"
    for path in (new, final):
        path.mkdir()
        (path / path.name).touch()
    replace, calls = os.replace, []

    def contested(source, target):
        replace(source, target)
        calls.append(source)
        if len(calls) == 1:  # the old result has just been moved away, and the other run's result comes
            final.mkdir()
            (final / "other").touch()

    monkeypatch.setattr(folders.os, "replace", contested)
    put_in_place(new, final)
    assert [path.name for path in final.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_what_was_there_comes_back_if_the_new_cannot_come(tmp_path, monkeypatch):
    new, final = tmp_path / "new", tmp_path / "final"
    new.mkdir()
    final.mkdir()
    (final / "good").touch()
    replace = os.replace

    def failing(source, target):
        if source == new:
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(folders.os, "replace", failing)
    with pytest.raises(OSError, match="Input/output error"):
        put_in_place(new, final)
    assert (final / "good").exists()
