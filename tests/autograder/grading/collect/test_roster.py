"""The roster: a file of one's own, and those that nbgrader, Canvas and Moodle have."""

import pytest

from autograder.grading.collect.roster import Person, read_roster
from course_lib.errors import CourseError


class TestRoster:
    def read(self, tmp_path, text, encoding="utf-8"):
        (tmp_path / "r.csv").write_bytes(text.encode(encoding))
        return read_roster(tmp_path / "r.csv")

    def test_ones_own(self, tmp_path):
        people = self.read(tmp_path, "name;x,student,email\nAnn,ann,a@x.org\n,,\nBob,bob,\n")
        assert list(people) == ["ann", "bob"]

    def test_canvas(self, tmp_path):
        text = (
            "Student,ID,SIS User ID,SIS Login ID,Section,lora (3)\n    Points Possible,,,,,30\n"
            '"Ek, Ann",17,S1,ann,A,\n"Student, Test",99,,t1,A,\n'
        )
        assert self.read(tmp_path, text, "utf-8-sig") == {"ann": Person("ann", "Ek, Ann", "", "17", "S1", "A")}

    def test_moodle(self, tmp_path):
        text = "First name,Last name,Username,Email address,ID number\nAnn,Ek,ann,a@x.org,S1\n"
        assert self.read(tmp_path, text) == {"ann": Person("ann", "Ann Ek", "a@x.org", "", "S1")}

    def test_nbgraders_own_file(self, tmp_path):
        """The one that the instructor's guide makes for `nbgrader db student import`."""
        text = "id,first_name,last_name,email\nann,Ann,Ek,a@x.org\n"
        assert self.read(tmp_path, text) == {"ann": Person("ann", "Ann Ek", "a@x.org")}

    def test_twice_or_without_students(self, tmp_path):
        with pytest.raises(CourseError, match="has 'ann' a second time in row 3"):
            self.read(tmp_path, "student\nann\nann\n")
        with pytest.raises(CourseError, match="no column with the students"):
            self.read(tmp_path, "first,last\na,b\n")
        with pytest.raises(CourseError, match="There is no roster"):
            read_roster(tmp_path / "none.csv")
