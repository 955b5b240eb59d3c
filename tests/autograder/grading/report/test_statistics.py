"""`course grades report`: statistics of a class whose students may have written anything."""

import xml.etree.ElementTree as ET

import pytest
import small_class
from four_students import SCRIPT, four_students

from autograder import notebook
from autograder.grading.gradebook.standing import Standing
from autograder.grading.report.page import figure, write_report
from autograder.grading.report.statistics import class_statistics


@pytest.fixture
def mini(tmp_path):
    return small_class.new_course(tmp_path / "course")


@pytest.fixture
def parts(mini):
    return notebook.parts(mini.read())


@pytest.fixture
def found():
    return four_students()


class TestStatistics:
    def test_worked_example(self, parts, found):
        counted = class_statistics(parts, found)
        assert counted.totals == (10, 2, 4)
        assert counted.counts == (0, 0, 1, 0, 1, 0, 0, 0, 0, 1)
        assert (counted.mean, counted.median, counted.most) == (16 / 3, 4, 10)
        double = counted.parts[0]
        assert (double.graded, double.mean, double.full, double.none) == (3, 2 / 3, 1, 2)

    def test_failures_that_differ_in_numbers_are_one(self, parts, found):
        double = class_statistics(parts, found).parts[0]
        assert double.failures == ((f"double is off by … {SCRIPT.replace('1', '…')}", 2),)

    def test_nobody_is_graded(self, parts):
        counted = class_statistics(parts, [Standing("dora")])
        assert (counted.mean, counted.counts) == (0.0, (0,) * 10)
        ET.fromstring(figure("mini", counted))

    def test_page_and_figure(self, mini, parts, found, tmp_path):
        page, drawn = write_report(mini, class_statistics(parts, found), tmp_path / "to")
        html = page.read_text()
        assert "<script" not in html
        assert "2 × <code>double is off by … &lt;script&gt;" in html
        assert drawn.read_text() in html
        svg = ET.fromstring(drawn.read_text())
        texts = [each.text for each in svg.iter("{http://www.w3.org/2000/svg}text")]
        assert "20–30" in texts
        assert "33%" in texts
        about = svg.find("{http://www.w3.org/2000/svg}desc").text
        assert "90 to 100 %: 1" in about
        assert svg.get("role") == "img"
