"""An instructor grades a class of odd submissions with one run of nbgrader: nobody's points are lost."""

import csv
import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from submissions import appending, bare, filled, put, split, without_tests

from autograder import course
from autograder.grading.collect.submissions import find_submissions
from autograder.grading.report.table import table
from autograder.grading.run.grade import grade
from autograder.judging.results import FORGEABLE

NAME = "datasets"
LIMIT = 8  # seconds for a cell; the slowest takes a tenth of one
MOODLE = "Eve Ek_1005_assignsubmission_file_"
HELPER = "def helper(order, size):\n    return [order[i : i + size] for i in range(0, len(order), size)]\n\n\n"


def half(part, source):
    return source


def noisy(part, source):
    """Warnings and standard error cost nothing."""
    more = (
        "    import sys, warnings\n    warnings.warn('careful')\n    print('working', file=sys.stderr)\n    rows, rooms"
    )
    return source.replace("    rows, rooms", more) if part == "first-fit" else source


def with_helper(part, source):
    if part != "shuffled":
        return source
    return HELPER + source.replace("return [", "return helper(order, batch_size) or [")


def hidden_only(part, source):
    """Right for the visible checks' inputs, wrong for a hidden test's."""
    return source.replace("return rows", "return rows if len(lengths) < 30 else []") if part == "first-fit" else source


def endless(part, source):
    return (
        source.replace("    order =", "    import time\n    time.sleep(1000)\n    order =", 1)
        if part == "shuffled"
        else source
    )


def submissions_in(folder):
    """The class: where each has its notebook, and what is in it."""
    put(filled(), folder / "reference" / NAME / f"{NAME}.ipynb")
    put(filled(answers=[]), folder / "untouched" / f"{NAME}.ipynb")
    put(filled(answers=["cut", "first-fit"]), folder / "half.ipynb")
    put(filled(edit=noisy), folder / "noisy.ipynb")
    put(filled(edit=hidden_only), folder / "hidden.ipynb")
    put(filled(edit=appending("packed-row", "exit()")), folder / "exit.ipynb")
    put(filled(edit=appending("first-fit", "import os; os._exit(1)")), folder / "crash.ipynb")
    put(filled(edit=endless), folder / "loop.ipynb")
    put(without_tests(filled(answers=["cut"])), folder / "Doe, Jr.ipynb")
    put(split(filled(edit=with_helper), "shuffled", "def shuffled"), folder / "split.ipynb")
    put(bare(filled()), folder / "bare" / f"{NAME}.ipynb")
    put(filled("lora"), folder / "other" / f"{NAME}.ipynb")
    put(filled(), folder / "=1+1.ipynb")
    put(filled(), folder / MOODLE / f"my work/{NAME} (1).ipynb")
    put(filled(), folder / "a [b] {c} +" / f"{NAME}_final.ipynb")
    (folder / "broken.ipynb").write_text("{this is not a notebook")
    (folder / MOODLE / "timestamp.txt").write_text("last Tuesday, quarter past nine")
    (folder / "untouched" / "timestamp.txt").write_bytes(b"\xff\xfe2024")
    (folder / "reference" / NAME / "timestamp.txt").write_text("2024-02-03 04:05:06 +0200")
    return folder


def new_course(folder):
    """A course whose copy of the assignment is not judged, so that its tests run in a kernel, with a short limit."""
    source = course.find(NAME).read()
    source.metadata.course.update(judged=False, seconds_per_cell=LIMIT)
    put(source, folder / "source" / NAME / f"{NAME}.ipynb")
    return folder


class Graded:
    """One run over the class."""

    def __init__(self, folder):
        self.submissions, self.state, self.said = submissions_in(folder / "in"), new_course(folder / "course"), []
        self.before = {path: path.read_bytes() for path in self.submissions.rglob("*") if path.is_file()}
        self.assignment = course.find(NAME)
        self.grades = {g.student: g for g in self.run()}
        self.table = table(self.assignment, list(self.grades.values()))

    def run(self, *students, say=None, force=False):
        found = find_submissions(self.assignment, self.submissions)
        chosen = {student: found[student] for student in students or found}
        return grade(self.assignment, chosen, self.state, force=force, say=say or self.said.append)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:  # a kernel that cannot start, found before ours
        elsewhere = tmp_path_factory.mktemp("jupyter")
        (elsewhere / "kernels/python3").mkdir(parents=True)
        kernel = {"argv": ["/bin/false", "{connection_file}"], "display_name": "x", "language": "python"}
        (elsewhere / "kernels/python3/kernel.json").write_text(json.dumps(kernel))
        patch.setenv("JUPYTER_PATH", str(elsewhere))
        yield Graded(tmp_path_factory.mktemp("class"))


@pytest.mark.slow
@pytest.mark.xdist_group("grading")  # one worker: they share one run
class TestGrade:
    @pytest.mark.parametrize("student", ["reference", "noisy", "split", "bare", "=1+1", MOODLE, "a [b] {c} +"])
    def test_full_marks(self, graded, student):
        assert (graded.grades[student].total, graded.grades[student].problem) == (30, "")

    def test_points_are_part_by_part(self, graded):
        assert graded.grades["untouched"].total == 0
        assert graded.grades["untouched"].problem == ""
        assert graded.grades["half"].total == 3 + 3
        assert graded.grades["half"].points["check-cut"] == 3
        assert graded.grades["half"].points["check-format"] == 0

    def test_hidden_tests_see_what_visible_checks_do_not(self, graded):
        assert graded.grades["hidden"].points["check-first-fit"] == 1  # for the property that it has
        assert graded.grades["hidden"].total == 28

    def test_deleted_tests_are_put_back(self, graded):
        assert graded.grades["Doe, Jr"].points["check-cut"] == 3
        assert graded.grades["Doe, Jr"].total == 3

    def test_what_was_earned_before_the_kernel_ended_counts_and_the_rest_is_flagged(self, graded):
        ended, crashed = graded.grades["exit"], graded.grades["crash"]
        assert (
            ended.problem
            == "the cell 'packed-row' ended its kernel with exit(): parts 7, 8, 9 not graded, see formgrader"
        )
        assert (ended.total, list(ended.points)[-1]) == (22, "check-first-fit")
        assert crashed.problem == "the cell 'first-fit' ended its kernel: parts 6, 7, 8, 9 not graded, see formgrader"
        assert crashed.total == 19
        flagged = manual_grades(graded.state, "exit")
        assert flagged == {"check-packed-row", "check-shuffled", "check-grouped"}

    def test_an_endless_loop_costs_its_part_and_says_that_it_is_there(self, graded):
        assert graded.grades["loop"].total == 28
        assert graded.grades["loop"].points["check-shuffled"] == 0
        assert f"      the cell 'check-shuffled' is still running (it may take {LIMIT} s)" in graded.said

    def test_problems_are_booked_on_the_students_they_name(self, graded):
        problems = {student: g.problem for student, g in graded.grades.items() if g.problem}
        assert set(problems) == {"broken", "other", "exit", "crash"}
        assert "is damaged: it is not JSON" in problems["broken"]
        assert problems["other"] == f"other/{NAME}.ipynb is the assignment lora, not {NAME}"
        assert graded.grades["other"].total is None

    def test_a_bad_timestamp_is_a_note(self, graded):
        assert "says 'last Tuesday, quarter past nine', which is not a time" in graded.grades[MOODLE].note
        assert "which is not a time" in graded.grades["untouched"].note
        assert f"found as {MOODLE}/my work/{NAME} (1).ipynb" in graded.grades[MOODLE].note

    def test_submissions_are_only_read(self, graded):
        now = {path: path.read_bytes() for path in graded.submissions.rglob("*") if path.is_file()}
        assert now == graded.before

    def test_csv_table_and_feedback(self, graded):
        with (graded.state / f"grades-{NAME}.csv").open(newline="") as file:
            rows = {row["student"]: row for row in csv.DictReader(file)}
        assert set(rows) == {s if s != "=1+1" else "'=1+1" for s in graded.grades}
        assert float(rows["half"]["total"]) == 6
        assert (rows["broken"]["total"], rows["exit"]["total"], rows["exit"]["check-grouped"]) == ("", "22.0", "")
        assert all(row["max"] == "30" for row in rows.values())
        row = next(line for line in graded.table.splitlines() if line.startswith("half"))
        points, _, note = row.partition("note: ")
        assert points.rstrip().endswith("  6")
        assert note == FORGEABLE
        assert rows["half"]["note"] == FORGEABLE
        assert (graded.state / f"feedback/half/{NAME}/{NAME}.html").is_file()
        assert (graded.state / f"feedback/exit/{NAME}/{NAME}.html").is_file()

    def test_formgrader_has_everybody_autograded_with_a_time(self, graded):
        shown = formgrader(graded.state)
        assert set(shown) == set(graded.grades) - {"broken", "other"}
        for student, submission in shown.items():
            assert submission["autograded"], student
            assert submission["timestamp"], student
            assert submission["max_score"] == 30
            assert submission["needs_manual_grade"] == (student in ("exit", "crash")), student
        assert shown["reference"]["timestamp"] == "2024-02-03T02:05:06"


class Again:
    """What happens to the class afterwards, and a second run; then a third, of one student."""

    def __init__(self, graded):
        self.graded, self.said = graded, []
        self.journal = graded.state / f"autograded/graded-{NAME}.json"
        self.first = json.loads(self.journal.read_text())
        self.half_output = graded.state / f"autograded/half/{NAME}/{NAME}.ipynb"
        self.executed = len(self.half_output.read_text())
        self.collected = graded.state / f"submitted/hidden/{NAME}"
        self.earlier = (self.collected / f"{NAME}.ipynb").read_bytes()
        self.happen()
        students = ["exit", "crash", "half", "hidden", "noisy", MOODLE]
        self.grades = {g.student: g for g in graded.run(*students, say=self.said.append)}
        self.flagged = manual_grades(graded.state, "noisy")
        put(filled(edit=noisy), graded.submissions / "noisy.ipynb")
        (self.mended,) = graded.run("noisy", say=self.said.append)

    def happen(self):
        """A killed run, an update of the course, a person who grades, and two resubmissions."""
        put(filled(answers=[]), self.half_output)  # a run that is killed leaves a notebook that was never executed
        known = {student: entry.get("digest") for student, entry in self.first.items() if student != "half"}
        self.journal.write_text(json.dumps(known | {MOODLE: self.first[MOODLE], "exit": self.first["exit"]}))
        with gradebook(self.graded.state) as book:
            for part, points in (("first-fit", 0.0), ("packed-row", 1.0), ("shuffled", 1.0), ("grouped", 1.0)):
                entry = book.find_grade(f"check-{part}", NAME, NAME, "crash")
                entry.manual_score, entry.needs_manual_grade = points, False
            book.db.commit()
        put(filled(answers=["cut"]), self.graded.submissions / "hidden.ipynb")
        put(nbformat.v4.new_notebook(), self.graded.submissions / "noisy.ipynb")


@pytest.fixture(scope="module")
def again(graded):
    return Again(graded)


@pytest.mark.slow
@pytest.mark.xdist_group("grading")
class TestGradeAgain:
    def test_unchanged_is_skipped_and_says_the_same(self, graded, again):
        assert not any(student in line for line in again.said for student in ("exit", "crash", MOODLE))
        assert again.grades["exit"] == graded.grades["exit"]
        assert again.grades[MOODLE] == graded.grades[MOODLE]

    def test_half_graded_is_graded_again(self, graded, again):
        assert again.said[1:3] == ["[1/2] half", "[2/2] hidden"]
        assert again.grades["half"] == graded.grades["half"]
        assert len(again.half_output.read_text()) > 0.9 * again.executed
        assert json.loads(again.journal.read_text())["half"] == again.first["half"]

    def test_a_person_may_grade_what_was_not_reached(self, again):
        assert (again.grades["crash"].total, again.grades["crash"].problem) == (22, "")

    def test_a_resubmission_that_cannot_be_graded_does_not_keep_its_points_in_silence(self, graded, again):
        assert again.grades["noisy"].total is None
        assert "is not one of the course's assignments" in again.grades["noisy"].problem
        assert len(again.flagged) == 9
        assert again.mended == graded.grades["noisy"]
        assert manual_grades(graded.state, "noisy") == set()

    def test_a_resubmission_is_collected_and_the_earlier_one_kept(self, graded, again):
        assert again.grades["hidden"].total == 3
        now = (graded.submissions / "hidden.ipynb").read_bytes()
        assert (again.collected / f"{NAME}.ipynb").read_bytes() == now != again.earlier
        assert [path.read_bytes() for path in again.collected.glob("*.until-*")] == [again.earlier]
        with gradebook(graded.state) as book:
            handed_in = book.find_submission(NAME, "hidden").timestamp
        assert (again.collected / "timestamp.txt").read_text().startswith(f"{handed_in:%Y-%m-%d %H:%M:%S}")


@pytest.mark.slow
def test_nbgraders_own_commands_work_in_a_copy_of_the_course(tmp_path):
    """release, submissions, autograde, feedback, as an instructor types them; and a crash costs what it costs us."""
    root = tmp_path / "autograder"
    shutil.copy(course.CONFIG, new_course(root))
    for student, edit in (("ada", None), ("bob", appending("cut", "import os; os._exit(1)"))):
        handed_in = filled(edit=edit)
        handed_in.metadata.course.judged = False  # nbgrader's own commands believe the submission
        put(handed_in, root / f"submitted/{student}/{NAME}/{NAME}.ipynb")
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]  # an activated environment
    for command in (["generate_assignment", NAME], ["autograde", NAME], ["generate_feedback", NAME]):
        done = subprocess.run(
            [sys.executable, "-m", "nbgrader", *command],
            cwd=root,
            env={**os.environ, "PATH": path},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()
    assert (root / f"feedback/ada/{NAME}/{NAME}.html").is_file()
    with gradebook(root) as book:
        assert book.find_submission(NAME, "ada").score == 30
        assert book.find_submission(NAME, "bob").score == 12
    assert "check-cut" in manual_grades(root, "bob")


def test_an_edited_source_is_refused_once_there_are_grades(tmp_path):
    """nbgrader cannot change the parts of an assignment that has submissions."""
    state = new_course(tmp_path / "course")
    (state / "source" / NAME / f"{NAME}.ipynb").write_text("{}")
    from course_lib.errors import CourseError

    with pytest.raises(CourseError, match=f"nbgrader could not release {NAME}"):
        grade(course.find(NAME), {}, state, say=lambda line: None)


def gradebook(state):
    """nbgrader's gradebook of a course."""
    from nbgrader.api import Gradebook

    return Gradebook(f"sqlite:///{state / 'gradebook.db'}")


def manual_grades(state, student):
    """The parts for which formgrader asks for a person."""
    with gradebook(state) as book:
        grades = book.find_submission_notebook(NAME, NAME, student).grades
        return {each.cell.name for each in grades if each.needs_manual_grade}


def formgrader(state):
    """What formgrader shows, by student; its own API changes the working folder."""
    code = f"""
import json, sys
from nbgrader.apps import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
api = NbGraderAPI(CourseDirectory(root={str(state)!r}, course_id="adapting-language-models"))
shown = {{s["student"]: s for s in api.get_submissions({NAME!r})}}
for student in shown:
    alone = api.get_submission({NAME!r}, student)
    assert alone["autograded"] == shown[student]["autograded"], student
print(json.dumps(shown))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=state, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
