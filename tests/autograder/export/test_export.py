"""`course grades export`: each format as its platform reads it, and nobody's grade at somebody else."""

import csv
import io
import json

import pytest
import small_class
from four_students import four_students

from autograder.commands import grades
from autograder.export import FORMATS, export
from autograder.grading.collect.roster import Person
from course_lib.cli import parser
from course_lib.errors import CourseError


@pytest.fixture
def mini(tmp_path):
    return small_class.new_course(tmp_path / "course")


@pytest.fixture
def found():
    return four_students()


class TestExport:
    def rows(self, path):
        return list(csv.reader(io.StringIO(path.read_bytes().decode(), newline="")))

    def test_csv_has_every_part_and_no_formula(self, mini, found, tmp_path):
        path = tmp_path / "g.csv"
        assert export(mini, found, {}, "csv", path) == []
        header, *rows = self.rows(path)
        assert header[3:8] == ["check-double", "check-scaled", "check-attend", "check-heads", "check-counter"]
        by_student = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
        assert set(by_student) == {"ann", "'=cmd()", "carl", "dora"}
        assert (by_student["carl"]["late penalty"], by_student["carl"]["total"]) == ("1", "4")
        assert (by_student["dora"]["total"], by_student["dora"]["check-double"]) == ("", "")

    def test_canvas(self, mini, found, tmp_path):
        people = {
            "ann": Person("ann", "Ek, Ann", "a@x.org", "17", "S1", "A"),
            "zoe": Person("zoe", '=HYPERLINK("x")', lms_id="18"),
        }
        path = tmp_path / "g.csv"
        assert export(mini, found, people, "canvas", path) == ["=cmd()", "carl", "dora"]
        assert self.rows(path) == [
            ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "mini"],
            ["    Points Possible", "", "", "", "", "10"],
            ["Ek, Ann", "17", "S1", "ann", "A", "10"],
            ['\'=HYPERLINK("x")', "18", "", "zoe", "", ""],
        ]

    def test_a_student_may_be_known_by_another_id(self, mini, found, tmp_path):
        """Such as the account on the exchange's machine; nobody's grade goes to somebody else."""
        path = tmp_path / "g.csv"
        people = {"c.berg": Person("c.berg", "Berg, C", lms_id="19", sis_id="carl")}
        assert export(mini, found, people, "canvas", path) == ["=cmd()", "ann", "dora"]
        assert self.rows(path)[2] == ["Berg, C", "19", "carl", "c.berg", "", "4"]
        people |= {"dora": Person("dora", lms_id="20", sis_id="ann")}  # two of the gradebook would be her
        assert export(mini, found, people, "canvas", path) == ["=cmd()", "ann"]
        assert self.rows(path)[3] == ["dora", "20", "ann", "dora", "", ""]

    def test_canvas_needs_its_own_numbers(self, mini, found, tmp_path):
        with pytest.raises(CourseError, match="with --roster"):
            export(mini, found, {}, "canvas", tmp_path / "g.csv")

    def test_moodle(self, mini, found, tmp_path):
        path = tmp_path / "g.csv"
        export(mini, found, {"ann": Person("ann", email="Ann@x.org")}, "moodle", path)
        assert self.rows(path) == [["Username", "Email address", "mini"], ["ann", "Ann@x.org", "10"]]

    def test_json(self, mini, found, tmp_path):
        path = tmp_path / "g.json"
        export(mini, found, {}, "json", path)
        said = json.loads(path.read_text())
        assert said["parts"][0] == {"id": "check-double", "title": "double", "points": 2}
        dora = next(each for each in said["students"] if each["student"] == "dora")
        assert dora["total"] is None
        assert dora["points"]["check-heads"] is None


def test_the_command_offers_every_format():
    """It states them without importing what writes them."""
    for kind in FORMATS:
        assert parser("grades").parse_args(["grades", "export", "lora", "--format", kind]).format == kind
    assert tuple(FORMATS) == grades.FORMATS
