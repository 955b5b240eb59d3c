"""Submissions are found whatever students and learning platforms have made of their names."""

import json
import shutil

import nbformat
import pytest
from submissions import bare, filled, put, replacing

from autograder import course, notebook
from autograder.grading.collect.submissions import find_submissions
from course_lib.errors import CourseError

RIGHT = "datasets.ipynb"


@pytest.fixture(scope="module")
def assignment():
    return course.find("datasets")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Notebooks to copy: answered, half answered, untouched, and of another assignment."""
    folder = tmp_path_factory.mktemp("notebooks")
    put(filled(), folder / "answered")
    put(filled(edit=replacing("cut", "all(", "any(")), folder / "other answers")
    put(filled(answers=[]), folder / "untouched")
    put(bare(filled()), folder / "bare")
    put(filled("lora"), folder / "lora")
    put(nbformat.v4.new_notebook(), folder / "empty")
    (folder / "broken").write_text("{this is not a notebook")
    return folder


@pytest.fixture
def found(assignment, written, tmp_path):
    """A function: what is found of files {place: kind}."""

    def find(files):
        for place, kind in files.items():
            path = tmp_path / place
            path.parent.mkdir(parents=True, exist_ok=True)
            if (written / kind).is_file():
                shutil.copy(written / kind, path)
            else:
                path.write_text(kind)
        return find_submissions(assignment, tmp_path)

    return find


def test_layouts(found, tmp_path):
    submissions = found(
        {f"ada/datasets/{RIGHT}": "answered", f"bob/{RIGHT}": "answered", "cem.ipynb": "answered", ".hidden/x": "x"}
    )
    assert {s: sub.path.relative_to(tmp_path).as_posix() for s, sub in submissions.items()} == {
        "ada": f"ada/datasets/{RIGHT}",
        "bob": f"bob/{RIGHT}",
        "cem": "cem.ipynb",
    }
    assert not any(sub.note or sub.problem for sub in submissions.values())
    assert [sub.folder and sub.folder.name for sub in submissions.values()] == ["ada", "bob", None]


@pytest.mark.parametrize(
    "place", ["datasets (1).ipynb", "Datasets.ipynb", "datasets_final.ipynb", f"my work/{RIGHT}", "my work/x/A.IPYNB"]
)
def test_renamed_ones_in_a_learning_platforms_folder(found, tmp_path, place):
    student = "Ada Lovelace_1001_assignsubmission_file_"
    (submission,) = found({f"{student}/{place}": "answered"}).values()
    assert submission.student == student
    assert submission.path == tmp_path / student / place
    assert submission.note == f"found as {student}/{place}"


def test_one_without_metadata(found):
    assert found({f"ada/{RIGHT}": "bare"})["ada"].path


def test_another_assignment_is_a_problem_and_not_a_zero(found):
    submissions = found({f"ada/{RIGHT}": "lora", "bob/lora.ipynb": "lora", f"cem/{RIGHT}": "empty"})
    assert submissions["ada"].path is None
    assert submissions["ada"].problem == f"ada/{RIGHT} is the assignment lora, not datasets"
    assert submissions["bob"].problem == "bob/lora.ipynb is the assignment lora, not datasets"
    assert "is not one of the course's assignments" in submissions["cem"].problem


def test_what_cannot_be_read_is_a_problem(found):
    submissions = found({f"ada/{RIGHT}": "broken", "bob/answers.pdf": "%PDF", f"cem/datasets/{'timestamp.txt'}": "now"})
    assert "is damaged: it is not JSON" in submissions["ada"].problem
    assert submissions["bob"].problem == "there is no notebook, only answers.pdf"
    assert submissions["cem"].problem == "there is no notebook"


def test_a_student_who_handed_in_other_assignments_only_is_left_out(found):
    """nbgrader's submitted/ has a folder for each assignment."""
    submissions = found({f"ada/datasets/{RIGHT}": "answered", "bob/lora/lora.ipynb": "lora"})
    assert list(submissions) == ["ada"]


def test_checkpoints_and_what_a_mac_adds_do_not_count(found):
    submissions = found(
        {
            f"ada/{RIGHT}": "answered",
            f"ada/.ipynb_checkpoints/{RIGHT}": "untouched",
            f"__MACOSX/ada/._{RIGHT}": "broken",
            "ada/__MACOSX/x.ipynb": "broken",
        }
    )
    assert list(submissions) == ["ada"]
    assert submissions["ada"].note == ""


class TestSeveralNotebooks:
    def test_the_one_that_is_this_assignment(self, found):
        submission = found({"ada/lora.ipynb": "lora", "ada/answers.ipynb": "answered"})["ada"]
        assert submission.path.name == "answers.ipynb"
        assert "lora.ipynb is the assignment lora, not datasets" in submission.note

    def test_one_with_the_right_name_that_is_another_assignment(self, found):
        assert found({f"ada/{RIGHT}": "lora", "ada/mine.ipynb": "answered"})["ada"].path.name == "mine.ipynb"

    def test_the_answered_one(self, found):
        submission = found({f"ada/{RIGHT}": "untouched", "ada/datasets (1).ipynb": "answered"})["ada"]
        assert submission.path.name == "datasets (1).ipynb"

    def test_copies_count_once(self, found):
        submission = found({"ada/a.ipynb": "answered", f"ada/{RIGHT}": "answered"})["ada"]
        assert submission.path.name == RIGHT
        assert submission.note == ""

    def test_of_two_with_different_answers_the_one_with_the_right_name(self, found):
        submission = found({f"ada/{RIGHT}": "answered", "ada/old.ipynb": "other answers"})["ada"]
        assert submission.path.name == RIGHT
        assert submission.note == "ada/old.ipynb has other answers and was not graded"

    def test_where_nothing_says_which_it_is_a_problem(self, found):
        submission = found({"ada/a.ipynb": "answered", "ada/b.ipynb": "other answers"})["ada"]
        assert submission.path is None
        assert submission.problem == ("several notebooks with different answers: keep one of ada/a.ipynb, ada/b.ipynb")

    def test_an_untouched_one_alone_is_a_submission(self, found):
        assert found({f"ada/{RIGHT}": "untouched"})["ada"].problem == ""


def test_no_submissions_is_explained(assignment, tmp_path):
    expected = (
        r"There is no submission in .*: expected STUDENT/datasets/datasets\.ipynb, STUDENT/datasets\.ipynb or "
        r"STUDENT\.ipynb \(unpack"
    )
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CourseError, match=expected):
            find_submissions(assignment, folder)


def test_half_an_emoji_is_refused_and_stops_nobody(tmp_path):
    path = tmp_path / "lora.ipynb"
    path.write_text(json.dumps(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("# \ud83d")])))
    with pytest.raises(CourseError, match=r"not a notebook that can be read \(UnicodeEncodeError\)"):
        notebook.read(path)
