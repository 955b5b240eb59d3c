"""A course's own copy of nbgrader's configuration: made once, left alone, and named where it is behind ours."""

import shutil

import pytest

from autograder import course
from autograder.configuration import outdated, place
from autograder.grading.run.grade import grade
from course_lib.errors import CourseError

NAME = course.CONFIG.name

# What the first version of this course wrote.
FIRST = """
from pathlib import Path

c = get_config()
c.CourseDirectory.course_id = "adapting-language-models"
c.CourseDirectory.root = str(Path(__file__).parent)
c.Exchange.course_id = "adapting-language-models"
c.ExecutePreprocessor.timeout = 120
c.IgnorePattern.enabled = True
c.IgnorePattern.pattern = r"(?s).*"
c.HTMLExporter.sanitize_html = True
c.ClearSolutions.code_stub = {"python": '# YOUR CODE HERE\\nraise NotImplementedError("this part is not written yet")'}
"""


@pytest.fixture
def edited(tmp_path):
    """edited((old, new), …): a course whose copy of our configuration was edited."""

    def edit(*changes, more=""):
        text = course.CONFIG.read_text()
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (tmp_path / NAME).write_text(text + more)
        return tmp_path

    return edit


def test_a_new_course_gets_ours_and_an_old_ones_is_left_alone(tmp_path):
    place(tmp_path / "new" / "course")
    assert (tmp_path / "new/course" / NAME).read_bytes() == course.CONFIG.read_bytes()
    (tmp_path / NAME).write_text(FIRST)
    place(tmp_path)
    assert (tmp_path / NAME).read_text() == FIRST


def test_ours_is_not_outdated(edited):
    assert outdated(course.CONFIG.parent) == ""
    assert outdated(edited()) == ""


def test_a_copy_of_the_first_version_is_noticed(tmp_path):
    (tmp_path / NAME).write_text(FIRST)
    assert outdated(tmp_path) == (
        f"{tmp_path / NAME} is older than this version of the course, or was edited: it does not set"
        " Autograde.autograde_preprocessors, GenerateFeedback.exporter_class, so that nbgrader's own commands and"
        " formgrader may grade otherwise than `course grade`. To renew it, rename it, run `course grade`"
        f" again, and copy your own settings into the new {NAME}."
    )


def test_copies_of_earlier_versions_name_what_is_there():
    """These names stand in the copies of instructors, and nbgrader imports them."""
    from traitlets.utils.importstring import import_item

    from autograder.grading.gradebook import converters, feedback

    assert import_item("autograder.grading.converters.Execute") is converters.Execute
    assert import_item("autograder.grading.converters.SaveAutoGrades") is converters.SaveAutoGrades
    assert import_item("autograder.grading.feedback.FeedbackExporter") is feedback.FeedbackExporter


def test_a_setting_that_differs_is_named(edited):
    said = outdated(edited(("c.IgnorePattern.enabled = True", "c.IgnorePattern.enabled = False")))
    assert "it sets IgnorePattern.enabled otherwise, so that" in said


def test_an_earlier_list_is_noticed_and_a_longer_one_is_not(edited):
    theirs = ('"autograder.grading.converters.Execute"', '"nbgrader.preprocessors.Execute"')
    assert "it sets Autograde.autograde_preprocessors otherwise" in outdated(edited(theirs))
    longer = (
        '"nbgrader.preprocessors.IgnorePattern",',
        '"my.own.Preprocessor",\n    "nbgrader.preprocessors.IgnorePattern",',
    )
    assert outdated(edited(longer)) == ""


def test_what_is_the_instructors_does_not_count(edited):
    more = "\nc.CourseDirectory.course_id = 'cs-101'\nc.ExecutePreprocessor.timeout = 600\nc.Exchange.root = '/srv'\n"
    assert outdated(edited(more=more)) == ""


@pytest.mark.parametrize("text", ["c = get_config(\n", "import no_such_module\n", "raise SystemError('no')\n"])
def test_one_that_cannot_be_read_says_why(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    said = outdated(tmp_path)
    assert said.startswith(f"{tmp_path / NAME} cannot be read (")
    assert "To renew it, rename it" in said


class Nbgrader:
    """In the place of `NbgraderProcess`: nothing is graded."""

    def __init__(self, state, name, held=()):
        place(state)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def ask(self, **task):
        raise CourseError("nothing is graded here")


def test_course_grade_says_so_first_and_renaming_renews_it(tmp_path, monkeypatch):
    monkeypatch.setattr("autograder.grading.run.grade.NbgraderProcess", Nbgrader)
    (tmp_path / NAME).write_text(FIRST)

    def said():
        lines = []
        with pytest.raises(CourseError, match="nothing is graded"):
            grade(course.find("datasets"), {}, tmp_path, say=lines.append)
        return lines

    note = f"note: {outdated(tmp_path)}"
    assert said() == [note, "preparing datasets"]
    shutil.move(tmp_path / NAME, tmp_path / f"{NAME}.old")
    assert said() == ["preparing datasets"]
    assert (tmp_path / NAME).read_bytes() == course.CONFIG.read_bytes()
