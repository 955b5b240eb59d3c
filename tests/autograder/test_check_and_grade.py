"""A student checks, an instructor grades: with nbgrader itself, on submissions of every kind."""

import copy
import csv
import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest

from autograder import course, notebook
from autograder.grading.grade import Grade, find_submissions, grade, table, write_csv
from autograder.student.check import _message, check
from autograder.student.release import release
from course_lib.errors import CourseError

ANSWERS = ["init", "forward", "merged-weight", "lora-parameters", "backward", "trainable-percentage"]
ANSWERS += ["inject-lora", "base-parameters", "model-percentage"]
ANSWERS += ["torch-init", "torch-forward", "torch-inject-lora"]


@pytest.fixture(scope="module", autouse=True)
def private_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def filled(names, edit=None):
    """The release with the reference solution in the cells `names`, each passed through `edit`."""
    assignment = course.find("lora")
    reference = {notebook.grade_id(cell): cell.source for cell in assignment.read().cells}
    nb = copy.deepcopy(release(assignment))
    for cell in nb.cells:
        if (name := notebook.grade_id(cell)) in names:
            lines = [line for line in reference[name].splitlines() if "### " not in line]
            cell.source = "\n".join(lines)
            if edit:
                cell.source = edit(name, cell.source)
    return nb


def wrong_forward(name, source):
    return source.replace("self.scaling * (x", "(x") if name == "forward" else source


def noisy(name, source):
    if name != "forward":
        return source
    return "import sys, warnings\n" + source.replace(
        "return x", "warnings.warn('careful'); print('working', file=sys.stderr); return x"
    )


def hidden_only_failure(name, source):
    """Right for the visible checks' inputs, wrong for the hidden tests' scaling of 1.7."""
    return source.replace("return x", "return (2 if self.scaling == 1.7 else 1) * x") if name == "forward" else source


def without_tests(nb):
    nb.cells = [cell for cell in nb.cells if not notebook.is_test(cell)]
    return nb


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Grades by student, and the course's folder, from one run over all submissions."""
    submissions, state = tmp_path_factory.mktemp("submissions"), tmp_path_factory.mktemp("state")
    kinds = {
        "reference": filled(ANSWERS),
        "untouched": filled([]),
        "half": filled(["forward", "backward", "merged-weight"]),
        "noisy": filled(ANSWERS, noisy),
        "hidden": filled(ANSWERS, hidden_only_failure),
        "exit": filled(
            ANSWERS, lambda name, source: source + ("\nimport os; os._exit(1)" if name == "forward" else "")
        ),
        "Doe, Jr": without_tests(filled(["forward"])),
    }
    for student, nb in kinds.items():
        nbformat.write(nb, submissions / f"{student}.ipynb")
    (submissions / "broken.ipynb").write_text("{this is no notebook")
    assignment = course.find("lora")
    said = []
    found = find_submissions(assignment, submissions)
    grades = grade(assignment, found, state, say=said.append)
    return {g.student: g for g in grades}, state, table(assignment, grades), submissions


@pytest.mark.slow
@pytest.mark.xdist_group("grading")  # one worker: they share one nbgrader run
class TestGrade:
    def test_reference_scores_full_marks(self, graded):
        assert graded[0]["reference"].total == 40

    def test_untouched_release_scores_zero(self, graded):
        assert graded[0]["untouched"].total == 0
        assert graded[0]["untouched"].problem == ""

    def test_half_right_scores_its_part(self, graded):
        assert graded[0]["half"].total == 4 + 3 + 4
        assert graded[0]["half"].points["check-forward"] == 4
        assert graded[0]["half"].points["check-init"] == 0

    def test_a_warning_costs_nothing(self, graded):
        assert graded[0]["noisy"].total == 40

    def test_hidden_tests_see_what_visible_checks_do_not(self, graded):
        assert graded[0]["hidden"].points["check-forward"] == 0
        assert graded[0]["hidden"].total == 36

    def test_deleted_tests_are_put_back(self, graded):
        assert graded[0]["Doe, Jr"].points["check-forward"] == 4
        assert graded[0]["Doe, Jr"].total == 4

    def test_a_broken_notebook_stops_nobody(self, graded):
        assert "not a notebook" in graded[0]["broken"].problem
        assert "DeadKernelError" in graded[0]["exit"].problem
        assert len(graded[0]) == 8

    def test_csv_quotes_and_adds_up(self, graded):
        _, state, _, _ = graded
        with (state / "grades-lora.csv").open(newline="") as file:
            rows = {row["student"]: row for row in csv.DictReader(file)}
        assert set(rows) == {"reference", "untouched", "half", "noisy", "hidden", "exit", "Doe, Jr", "broken"}
        assert float(rows["half"]["total"]) == 11
        assert all(row["max"] == "40" for row in rows.values())

    def test_table_and_feedback(self, graded):
        _, state, text, _ = graded
        assert "total/40" in text.splitlines()[0]
        assert any(line.startswith("half") and line.endswith("11") for line in text.splitlines())
        assert (state / "feedback/half/lora/lora.html").is_file()

    def test_grading_again_changes_nothing(self, graded):
        grades, state, _, submissions = graded
        assignment = course.find("lora")
        only = {"half": find_submissions(assignment, submissions)["half"]}
        (again,) = grade(assignment, only, state, say=lambda _: None)
        assert again.points == grades["half"].points

    def test_unchanged_is_skipped_and_half_graded_is_graded_again(self, graded):
        """A run that is killed leaves a notebook in autograded/ that was never executed, and no entry in the list."""
        grades, state, _, submissions = graded
        assignment, said = course.find("lora"), []
        only = {"half": find_submissions(assignment, submissions)["half"]}
        grade(assignment, only, state, say=said.append)
        assert not any("half" in line for line in said)
        output, file = state / "autograded/half/lora/lora.ipynb", state / "autograded/graded-lora.json"
        executed, known = output.read_text(), json.loads(file.read_text())
        nbformat.write(filled([]), output)
        file.write_text(json.dumps({student: digest for student, digest in known.items() if student != "half"}))
        (again,) = grade(assignment, only, state, say=said.append)
        assert "[1/1] half" in said
        assert again.points == grades["half"].points
        assert len(output.read_text()) > 0.9 * len(executed)
        assert json.loads(file.read_text()) == known


@pytest.mark.slow
def test_nbgraders_own_commands_work_in_a_copy_of_the_course(tmp_path):
    """release, a submission, autograde, feedback, as an instructor types them."""
    root = tmp_path / "autograder"
    shutil.copytree(course.SOURCES, root / "source")
    shutil.copy(course.CONFIG, root)
    submitted = root / "submitted/ada/lora/lora.ipynb"
    submitted.parent.mkdir(parents=True)
    nbformat.write(filled(ANSWERS), submitted)
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]  # an activated environment
    for command in (["generate_assignment", "lora"], ["autograde", "lora"], ["generate_feedback", "lora"]):
        done = subprocess.run(
            [sys.executable, "-m", "nbgrader", *command],
            cwd=root,
            env={**os.environ, "PATH": path},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()
    assert (root / "feedback/ada/lora/lora.html").is_file()
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{root / 'gradebook.db'}") as gradebook:
        assert gradebook.find_submission("lora", "ada").score == 40


@pytest.mark.slow
class TestCheck:
    def outcomes(self, nb, tmp_path):
        path = tmp_path / "my work.ipynb"  # a student may rename it
        nbformat.write(nb, path)
        before = path.read_bytes()
        outcomes = {outcome.part.id: outcome.message for outcome in check(path)}
        assert path.read_bytes() == before, "check must never write into the student's file"
        assert [p.name for p in tmp_path.iterdir()] == [path.name]
        return outcomes

    def test_reference_passes(self, tmp_path):
        assert set(self.outcomes(filled(ANSWERS), tmp_path).values()) == {""}

    def test_messages_are_specific(self, tmp_path):
        outcomes = self.outcomes(filled(["init", "forward"], wrong_forward), tmp_path)
        assert outcomes["check-init"] == ""
        assert "your result is off by up to 20" in outcomes["check-forward"]
        assert outcomes["check-backward"] == "NotImplementedError: this part is not written yet"

    def test_an_answer_that_does_not_run_says_why(self, tmp_path):
        nb = without_tests(filled(["init"]))  # the tests come from the release
        for cell in nb.cells:
            if notebook.grade_id(cell) == "forward":
                cell.source = "def forward(self, x)\n    return x"
        path = tmp_path / "lora.ipynb"
        nbformat.write(nb, path)
        outcomes = {outcome.part.id: outcome.message for outcome in check(path)}
        assert outcomes["check-init"] == ""
        assert "the cell with your answer stops: SyntaxError: expected ':'" in outcomes["check-forward"]

    def test_visible_checks_only(self, tmp_path):
        assert self.outcomes(filled(ANSWERS, hidden_only_failure), tmp_path)["check-forward"] == ""

    def test_something_else_is_refused(self, tmp_path):
        path = tmp_path / "other.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), path)
        with pytest.raises(CourseError, match="none of the course's assignments"):
            check(path)
        with pytest.raises(CourseError, match="There is no notebook"):
            check(tmp_path / "absent.ipynb")


def test_no_submissions_is_explained(tmp_path):
    with pytest.raises(CourseError, match=r"has no submission: expected STUDENT/lora/lora\.ipynb"):
        find_submissions(course.find("lora"), tmp_path)


def test_layouts_of_submissions(tmp_path):
    for name in ("ada/lora/lora.ipynb", "bob/lora.ipynb", "cem.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert list(find_submissions(course.find("lora"), tmp_path)) == ["ada", "bob", "cem"]


def test_csv_keeps_the_rows_of_others(tmp_path):
    """Grading one late submission must not drop the class."""
    assignment, path = course.find("lora"), tmp_path / "grades.csv"
    first, late = Grade("ada", {"check-init": 4.0}), Grade("bob", {"check-forward": 4.0})
    write_csv(path, assignment, [first, Grade("cem", problem="lost")])
    write_csv(path, assignment, [late, Grade("cem", {"check-init": 4.0})])
    with path.open(newline="", encoding="utf-8") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    assert {name: float(row["total"]) for name, row in rows.items()} == {"ada": 4, "bob": 4, "cem": 4}
    assert rows["cem"]["problem"] == ""
    assert [p.name for p in tmp_path.iterdir()] == ["grades.csv"]


def test_half_an_emoji_is_refused_and_stops_nobody(tmp_path):
    path = tmp_path / "lora.ipynb"
    path.write_text(json.dumps(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("# \ud83d")])))
    with pytest.raises(CourseError, match=r"not a notebook that can be read \(UnicodeEncodeError\)"):
        notebook.read(path)


def test_an_interrupted_cell_is_explained():
    stopped = nbformat.v4.new_output("error", ename="KeyboardInterrupt", evalue="", traceback=[])
    cell = nbformat.v4.new_code_cell("while True: pass", execution_count=1, outputs=[stopped])
    assert _message(cell) == "it took too long and was stopped: is there an endless loop?"
