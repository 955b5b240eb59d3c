"""What a student hands in: refused where it is not what was released, and packed with a receipt where it is."""

import copy
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import nbformat
import pytest
from nbgrader.utils import notebook_hash
from small_class import hand_in, new_course
from submissions import bare, filled, put, released, replacing, split

from autograder import course, notebook
from autograder.configuration import place
from autograder.grading.collect.gather import gather
from autograder.grading.collect.roster import Person
from autograder.grading.collect.submissions import find_submissions
from autograder.grading.collect.times import handed_in, parsed
from autograder.grading.run.grade import grade
from autograder.student import exchange
from autograder.student.release import nbgrader
from autograder.student.submit import faults, pack, prepare, receipt_text
from course_lib.errors import CourseError

NAME = "kv_cache"
FIRST_TEST = "check-cache-bytes"


def cell_of(nb, name):
    return next(cell for cell in nb.cells if notebook.grade_id(cell) == name)


def without(nb, name):
    nb.cells = [cell for cell in nb.cells if notebook.grade_id(cell) != name]
    return nb


def in_archive(path, name=f"{NAME}.ipynb"):
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


class TestWhatIsRefused:
    def test_an_edited_test_is_named(self, tmp_path):
        nb = filled(NAME)
        cell_of(nb, FIRST_TEST).source += "\nprint(1)"
        with pytest.raises(CourseError, match=r"the test cell 'check-cache-bytes' was edited\. Nothing was packed"):
            prepare(put(nb, tmp_path / "x.ipynb"))

    def test_every_one_is_named(self, tmp_path):
        nb = without(filled(NAME), "check-top-p")
        cell_of(nb, "setup").source = "import numpy as np"
        cell_of(nb, FIRST_TEST).cell_type = "markdown"
        assert faults(released(NAME), nb) == [
            "the given cell 'setup' was edited",
            "the test cell 'check-cache-bytes' was edited",
            "the test cell 'check-top-p' is missing",
        ]

    def test_another_notebook(self, tmp_path):
        path = put(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), tmp_path / "x.ipynb")
        with pytest.raises(CourseError, match="is not one of the course's assignments"):
            prepare(path)

    def test_repair_puts_them_back_and_keeps_the_answers(self, tmp_path):
        nb = without(filled(NAME), "check-top-p")
        cell_of(nb, FIRST_TEST).source = "pass"
        prepared = prepare(put(nb, tmp_path / "x.ipynb"), repair=True)
        whole = nbformat.reads(prepared.content.decode(), as_version=4)
        assert faults(released(NAME), whole) == []
        assert cell_of(whole, "top-p").source == cell_of(nb, "top-p").source
        assert prepared.notes == [
            "the test cell 'check-cache-bytes' was edited: put back as it was released",
            "the test cell 'check-top-p' is missing: put back as it was released",
        ]


def doubled(nb):
    twin = copy.deepcopy(cell_of(nb, FIRST_TEST))
    twin.id = "twin"
    nb.cells.append(twin)
    return nb


def reformatted(nb):
    cell_of(nb, FIRST_TEST).source += "\n\n# looked at on Monday"
    return nb


def ran(nb):
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("stream", text="x" * 10_000)]
    return nb


def injected(nb):
    cell = nbformat.v4.new_code_cell("draw = None")
    cell.metadata["tags"] = ["injected-parameters"]
    nb.cells.insert(2, cell)
    return nb


@pytest.mark.parametrize("damage", [doubled, reformatted, ran, injected, bare, lambda nb: split(nb, "top-p", "    ")])
def test_what_can_be_put_right_is(damage, tmp_path):
    """The notebook in the archive has each given cell once, as it was released, and all answers."""
    path = put(damage(filled(NAME)), tmp_path / "mine.ipynb")
    before = path.read_bytes()
    prepared = prepare(path)
    whole = nbformat.reads(prepared.content.decode(), as_version=4)
    nbformat.validate(whole)
    names = [notebook.grade_id(cell) for cell in whole.cells]
    for cell in released(NAME).cells:
        name = notebook.grade_id(cell)
        if name is not None and not notebook.is_solution(cell):
            assert names.count(name) == 1
            assert cell_of(whole, name).source == cell.source
    assert "injected-parameters" not in prepared.content.decode()
    assert all(not cell.outputs for cell in whole.cells if cell.cell_type == "code")
    assert prepared.unwritten == []
    assert len(prepared.written) == 16
    assert path.read_bytes() == before, "submit must never write into the student's file"


class TestArchive:
    def test_receipt(self, tmp_path):
        path = put(filled(NAME, answers=["top-p", "min-p"]), tmp_path / f"{NAME}.ipynb")
        now = datetime(2026, 3, 1, 23, 30, 5, tzinfo=timezone(timedelta(hours=5, minutes=30)))
        receipt = pack(prepare(path), tmp_path, "s123", now)
        archive = tmp_path / f"s123-{NAME}-20260301T180005Z.zip"
        assert receipt.file == str(archive)
        said = json.loads(receipt.kept.read_text())
        assert said == receipt.entries
        assert said["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()
        assert said["notebook_sha256"] == hashlib.sha256(in_archive(archive)).hexdigest()
        assert said["time"] == "2026-03-01T18:00:05+00:00"
        assert said["answered"] == ["Part 13: top-p", "Part 14: min-p"]
        assert len(said["unanswered"]) == 14
        assert said["files"].keys() == {f"{NAME}.ipynb", "timestamp.txt", "receipt.json"}
        assert parsed(in_archive(archive, "timestamp.txt").decode()) == now
        assert json.loads(in_archive(archive, "receipt.json")) == {
            key: value for key, value in said.items() if key not in ("archive", "sha256", "files")
        }
        text = receipt_text(receipt)
        assert said["sha256"] in text
        assert "answered   2 of 16 parts" in text

    def test_an_earlier_one_stays(self, tmp_path):
        prepared = prepare(put(filled(NAME), tmp_path / f"{NAME}.ipynb"))
        now = datetime(2026, 3, 1, tzinfo=UTC)
        first = pack(prepared, tmp_path, now=now)
        with pytest.raises(CourseError, match="exists already and is left as it is"):
            pack(prepared, tmp_path, now=now)
        second = pack(prepared, tmp_path, now=now + timedelta(seconds=1))
        assert first.file != second.file

    def test_a_student_id_is_a_file_name(self, tmp_path):
        prepared = prepare(put(filled(NAME), tmp_path / f"{NAME}.ipynb"))
        with pytest.raises(CourseError, match=r"The student id '../x' must be letters"):
            pack(prepared, tmp_path, "../x")

    def test_it_is_found_when_it_is_unpacked(self, tmp_path):
        """Its time counts, whatever the clock of the unpacked files says."""
        path = put(filled(NAME), tmp_path / "mine.ipynb")
        receipt = pack(prepare(path), tmp_path, now=datetime(2026, 3, 1, 12, tzinfo=UTC))
        with zipfile.ZipFile(receipt.file) as archive:
            archive.extractall(tmp_path / "in" / "ann")
        found = find_submissions(course.find(NAME), tmp_path / "in")["ann"]
        assert (found.problem, found.note) == ("", "")
        assert handed_in(found.path, found.folder).text.startswith("2026-03-01 12:00:00")


class TestCollect:
    """`course collect` takes the archives as they come."""

    @pytest.fixture
    def inbox(self, tmp_path):
        """Archives as mails and platforms bring them, and when each says that it was handed in."""
        prepared = prepare(put(filled(NAME), tmp_path / "mine.ipynb"))
        folder = tmp_path / "inbox"
        for day, (student, name) in enumerate(
            [
                ("ann", None),
                ("bob", "bob.zip"),
                ("cy", "Cy Twombly_12345_assignsubmission_file_{}"),
                ("di", "prince-di_LATE_77_4321_{}"),
            ],
            start=1,
        ):
            receipt = pack(prepared, folder / student, student if name is None else None, self.time(day))
            archive = Path(receipt.file)
            archive.replace(folder / (name or "{}").format(archive.name))
            receipt.kept.unlink()
            archive.parent.rmdir()
        return folder

    @staticmethod
    def time(day):
        return datetime(2026, 3, day, 12, tzinfo=UTC)

    @pytest.mark.parametrize("zipped", [False, True])
    def test_each_is_of_its_student_and_of_its_time(self, inbox, zipped, tmp_path):
        source = inbox
        if zipped:
            source = tmp_path / "submissions.zip"
            with zipfile.ZipFile(source, "w") as archive:
                for path in inbox.iterdir():
                    archive.write(path, path.name)
        people = {
            "ann": Person("ann"),
            "bob": Person("bob"),
            "cy": Person("cy", name="Cy Twombly"),
            "di": Person("di", lms_id="77"),
            "eve": Person("eve"),
        }
        found = gather(course.find(NAME), [source], tmp_path / "course", people, None)
        assert {student: attempt.time for student, attempt in found.chosen.items()} == {
            student: self.time(day) for day, student in enumerate(("ann", "bob", "cy", "di"), start=1)
        }
        assert (found.missing, found.unknown, found.refused) == (["eve"], [], {})
        place = tmp_path / "course" / "submitted" / "ann" / NAME / f"{NAME}.ipynb"
        assert faults(released(NAME), notebook.read(place)) == []


class TestExchange:
    @pytest.fixture
    def root(self, tmp_path, monkeypatch):
        """An exchange to which the assignment was released."""
        root = tmp_path / "exchange"
        target = root / "alm" / "outbound" / NAME / f"{NAME}.ipynb"
        put(released(NAME), target)
        (root / "alm" / "inbound").mkdir()
        (root / "alm" / "inbound").chmod(0o733)
        root.chmod(0o777)
        home = tmp_path / "home"
        home.mkdir()
        monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(home))
        monkeypatch.setenv("JUPYTER_DATA_DIR", str(home))
        (home / "nbgrader_config.py").write_text(
            f"c = get_config()\nc.CourseDirectory.course_id = 'alm'\nc.Exchange.root = {str(root)!r}\n"
        )
        return root

    def test_none_is_configured(self, tmp_path, monkeypatch):
        monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
        monkeypatch.setattr(exchange, "DEFAULT_ROOT", tmp_path / "absent")
        assert exchange.configured(tmp_path) is None
        (tmp_path / "nbgrader_config.py").write_text("c = get_config()\nc.CourseDirectory.course_id = 'alm'\n")
        assert exchange.configured(tmp_path) is None
        (tmp_path / "nbgrader_config.json").write_text('{"Exchange": {"root": "/srv/exchange"}}')
        assert exchange.configured(tmp_path) == exchange.Exchange("alm", "/srv/exchange")
        (tmp_path / "nbgrader_config.py").write_text("1 +")
        with pytest.raises(CourseError, match=r"nbgrader_config.py cannot be read \(SyntaxError"):
            exchange.configured(tmp_path)

    def test_a_course_that_students_ask_for_by_another_name(self, root, tmp_path):
        """The instructor's folder has a configuration of its own, and the exchange a folder for each name."""
        state = tmp_path / "course"
        place(state)
        config = state / "nbgrader_config.py"
        said = exchange.other_course_name(state)
        assert said.startswith(f"this course is called 'adapting-language-models' in {config}, and")
        assert "ask the exchange for 'alm'." in said
        config.write_text(config.read_text().replace('"adapting-language-models"', '"alm"'))
        assert exchange.other_course_name(state) == ""
        (tmp_path / "home" / "nbgrader_config.py").unlink()
        config.write_text("c = get_config()\n")
        assert exchange.other_course_name(state) == ""

    @pytest.mark.slow
    def test_feedback_goes_back(self, root, tmp_path, monkeypatch):
        """nbgrader names a page after the submission's secret, and ends at the first submission without one."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        monkeypatch.setenv("PATH", path)
        state, secret = tmp_path / "course", "ab" * 64
        assignment = new_course(state)
        for student in ("ann", "zoe"):  # zoe sent hers by e-mail
            hand_in(state, student, {})
        (state / "submitted" / "ann" / "mini" / "submission_secret.txt").write_text(secret)
        grades = grade(assignment, find_submissions(assignment, state / "submitted"), state, say=lambda line: None)
        assert {each.problem for each in grades} == {""}
        nbgrader(state, "release_feedback", "mini", "--course=alm", f"--Exchange.root={root}")
        pages = {page.name for page in (root / "alm" / "feedback").iterdir()}
        assert len(pages) == 2
        assert f"{notebook_hash(secret=secret, notebook_id='mini')}.html" in pages  # where fetch_feedback looks

    @pytest.mark.slow
    def test_it_arrives(self, root, tmp_path, monkeypatch):
        """Through the command that a student types; and nbgrader's collect takes it from there."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        monkeypatch.setenv("PATH", path)  # nbgrader runs `alembic` to make a gradebook
        put(injected(ran(filled(NAME))), tmp_path / "work" / f"{NAME}.ipynb")
        command = [sys.executable, "-m", "course_lib.cli", "assignment", "submit", NAME]
        done = subprocess.run(command, cwd=tmp_path / "work", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"handed in  {NAME} through the nbgrader exchange {root}, course alm" in done.stdout
        digest = re.search(r"SHA-256    (\w{64})", done.stdout)[1]
        (arrived,) = (root / "alm" / "inbound").glob(f"*/{NAME}.ipynb")
        assert hashlib.sha256(arrived.read_bytes()).hexdigest() == digest
        teacher = tmp_path / "course"
        said = nbgrader(teacher, "collect", NAME, "--course=alm", f"--Exchange.root={root}")
        (collected,) = teacher.glob(f"submitted/*/{NAME}/{NAME}.ipynb")
        assert collected.read_bytes() == arrived.read_bytes(), said

    @pytest.mark.slow
    def test_a_refusal_says_why(self, root, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (root / "alm" / "outbound" / NAME).rename(root / "alm" / "outbound" / "other")
        prepared = prepare(put(filled(NAME), tmp_path / f"{NAME}.ipynb"))
        with pytest.raises(CourseError, match=r"did not take kv_cache: Assignment not found.*--archive"):
            exchange.submit(prepared, exchange.configured(), tmp_path)


def test_the_parts_with_an_answer(tmp_path):
    """A stub with another comment is still a stub; a changed line is an answer."""
    nb = filled(NAME, answers=[])
    cell_of(nb, "min-p").source += "\n# to do"
    edited = replacing("top-p", 'raise NotImplementedError("this part is not written yet")', "return 1")
    cell_of(nb, "top-p").source = edited("top-p", cell_of(nb, "top-p").source)
    assert prepare(put(nb, tmp_path / "x.ipynb")).written == ["Part 13: top-p"]
