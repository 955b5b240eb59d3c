"""`course assignment check --part` and `--watch`, as a student types them."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading

import pytest
from submissions import filled, put

from autograder import course, notebook
from autograder.judging.warm import Warm
from autograder.student.check import Outcome, check, find_part
from autograder.student.watch import changed, signature, summary
from course_lib.errors import CourseError

NAME = "kv_cache"
PARTS = notebook.parts(course.find(NAME).read())
WAIT = 180  # seconds: longer than any machine needs, and no test that passes waits for it


class TestWhichPart:
    @pytest.mark.parametrize("wanted", ["13", "top-p", "check-top-p", "part 13: TOP-P"])
    def test_by_number_name_and_title(self, wanted):
        assert find_part(PARTS, wanted).id == "check-top-p"

    @pytest.mark.parametrize("wanted", ["0", "17", "no such thing"])
    def test_none(self, wanted):
        with pytest.raises(CourseError, match=rf"No part is called '{wanted}'\. Give .*: 1 \(cache-bytes\); 2 "):
            find_part(PARTS, wanted)

    def test_several(self):
        with pytest.raises(CourseError, match=r"3 parts are called 'pages'\. Give .*: 6 \(append-tokens\); 7 .*; 9 "):
            find_part(PARTS, "pages")

    def test_one_in_words(self):
        parts = notebook.parts(course.find("sft").read())
        with pytest.raises(CourseError, match=r"Part 16: .* is answered in words"):
            find_part(parts, "16")


def test_one_part_is_checked(tmp_path):
    path = put(filled(NAME, answers=["top-p"]), tmp_path / "x.ipynb")
    (outcome,) = check(path, part="top-p")
    assert (outcome.part.id, outcome.message) == ("check-top-p", "")
    (outcome,) = check(path, part="14")
    assert outcome.message.startswith("NotImplementedError")


@pytest.mark.slow
def test_one_part_of_an_assignment_that_is_not_judged(tmp_path, monkeypatch):
    """Where no process can be forked, a kernel runs the cells up to its test, and no other test."""
    monkeypatch.delattr(os, "fork")
    edit = lambda part, source: f"{source}\nprint('ran')"  # noqa: E731
    path = put(filled("datasets", answers=["format", "parse"], edit=edit), tmp_path / "x.ipynb")
    (outcome,) = check(path, part="2")
    assert (outcome.part.id, outcome.message) == ("check-parse", "")


def test_a_check_goes_on_in_the_process_of_the_one_before(tmp_path):
    """So `--watch` imports an assignment's libraries once; no part finds what an earlier one has left."""
    edit = lambda part, source: f"import math\nassert not hasattr(math, 'seen')\nmath.seen = True\n{source}"  # noqa: E731
    path = put(filled(NAME, answers=["top-p", "min-p"], edit=edit), tmp_path / "x.ipynb")
    with Warm(one_student=True) as warm:
        seen = []
        for part in ("top-p", "min-p", "top-p"):
            (outcome,) = check(path, part=part, warm=warm)
            assert outcome.message == ""
            seen.append([process.process.pid for process in warm.plain.values()])
        put(filled(NAME, answers=[]), tmp_path / "x.ipynb")
        (outcome,) = check(path, part="top-p", warm=warm)
        assert outcome.message.startswith("NotImplementedError")
        (kept,) = warm.plain.values()
        assert seen == [[kept.process.pid]] * 3
        kept.process.kill()
        kept.process.wait()
        (outcome,) = check(path, part="top-p", warm=warm)  # one that has died meanwhile is replaced
        assert outcome.message.startswith("NotImplementedError")
    assert kept.process.poll() is not None
    assert not warm.plain


def test_the_first_parts_wait_for_no_library_of_later_ones(tmp_path):
    """PyTorch and transformers take seconds to import; here they are neither imported nor waited for."""
    path = put(filled("lora", answers=["init"]), tmp_path / "x.ipynb")
    code = "import sys; from pathlib import Path; from autograder.student.check import check"
    code += f"; print(check(Path({str(path)!r}), part='1')[0].message, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_only_what_changed_is_told():
    old = [Outcome(PARTS[0], "wrong"), Outcome(PARTS[1], ""), Outcome(PARTS[2], "", ("a hint",))]
    new = [Outcome(PARTS[0], ""), Outcome(PARTS[1], ""), Outcome(PARTS[2], "", ("another hint",))]
    told = []
    assert changed(old, new, told.append) == new
    assert told == [new[0], new[2]]
    assert summary(old) == "2 of 3 parts pass their visible checks"


def test_a_file_that_is_being_replaced_is_no_save(tmp_path):
    assert signature(tmp_path / "absent") is None
    (tmp_path / "x").write_text("1")
    before = signature(tmp_path / "x")
    (tmp_path / "y").write_text("1")
    os.replace(tmp_path / "y", tmp_path / "x")
    assert signature(tmp_path / "x") != before


class Lines:
    """What a process prints, line by line, for as long as it takes."""

    def __init__(self, process):
        self.lines, self.seen = queue.Queue(), []
        threading.Thread(target=self._read, args=[process.stdout], daemon=True).start()

    def _read(self, pipe):
        for line in pipe:
            self.lines.put(line.rstrip())
        self.lines.put(None)

    def until(self, pattern):
        """The lines up to the first with the pattern in it."""
        found = []
        while True:
            line = self.lines.get(timeout=WAIT)
            assert line is not None, f"it ended before {pattern!r}: {self.seen}"
            found.append(line)
            self.seen.append(line)
            if re.search(pattern, line):
                return found


@pytest.mark.slow
def test_watch(tmp_path):
    """A save tells what changed, a broken file is named and waited for, and Ctrl-C ends it with status 0."""
    path = put(filled(NAME, answers=["top-p"]), tmp_path / f"{NAME}.ipynb")
    command = [sys.executable, "-m", "course_lib.cli", "assignment", "check", NAME, "--watch"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **streams, start_new_session=True) as process:
        try:
            said = Lines(process)
            first = said.until("watching .*kv_cache.ipynb: save it to check again")
            assert sum(line.startswith(("ok  ", "FAIL")) for line in first) == 16
            assert "1 of 16 parts pass their visible checks" in first

            put(filled(NAME, answers=["top-p", "min-p"]), path)
            second = said.until("2 of 16 parts pass")
            assert [line for line in second if line.startswith(("ok  ", "FAIL"))] == ["ok    Part 14: min-p (2 points)"]

            path.write_text("{")
            said.until("kv_cache.ipynb is damaged: it is not JSON")

            put(filled(NAME, answers=["min-p"]), path)
            third = said.until("1 of 16 parts pass")
            assert [line for line in third if line.startswith(("ok  ", "FAIL"))] == ["FAIL  Part 13: top-p (3 points)"]

            os.kill(process.pid, signal.SIGINT)
            said.until("stopped")
            assert process.wait(WAIT) == 0
        finally:
            process.kill()
