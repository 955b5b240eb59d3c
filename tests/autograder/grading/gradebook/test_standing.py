"""What a class has reached, as the gradebook and the graded notebooks have it."""

import pytest
import small_class

from autograder import notebook
from autograder.grading.gradebook.standing import _messages, standings
from autograder.judging.judge import Verdict
from autograder.judging.results import write_results
from course_lib.errors import CourseError


@pytest.fixture
def mini(tmp_path):
    return small_class.new_course(tmp_path / "course")


@pytest.fixture
def parts(mini):
    return notebook.parts(mini.read())


def test_nothing_is_graded_yet(mini, tmp_path):
    with pytest.raises(CourseError, match="run `course grade mini` first"):
        standings(mini, tmp_path / "course")


def test_a_lost_property_is_a_failure_too(mini, parts, tmp_path):
    """The report counts what a partly right part lost, and not only what is wrong altogether."""
    whole, lost = mini.read(), "edge cases (1 of 2 points): wrong for 0"
    write_results(whole, [Verdict(parts[0], 1, lost), Verdict(parts[1], 0, "nothing"), Verdict(parts[2], 2)])
    place = tmp_path / "autograded" / "ann" / mini.name / mini.path.name
    place.parent.mkdir(parents=True)
    notebook.write(whole, place)
    assert _messages(mini, tmp_path, "ann") == {parts[0].id: lost, parts[1].id: "nothing"}
