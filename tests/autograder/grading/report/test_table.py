"""The table of a class, and its CSV file."""

import csv

import pytest

from autograder import course
from autograder.grading.report.table import Grade, table, write_csv


@pytest.fixture(scope="module")
def assignment():
    return course.find("datasets")


@pytest.fixture
def rows(assignment, tmp_path):
    """A function: writes grades to the file, and reads all rows by student."""
    path = tmp_path / "grades.csv"

    def write(*grades):
        write_csv(path, assignment, list(grades))
        assert [p.name for p in tmp_path.iterdir()] == ["grades.csv"]
        with path.open(newline="", encoding="utf-8") as file:
            return {row["student"]: row for row in csv.DictReader(file)}

    return write


class TestCsv:
    def test_late_submissions_do_not_drop_the_class(self, rows):
        first, late = Grade("ada", {"check-cut": 3.0}), Grade("bob", {"check-parse": 4.0})
        rows(first, Grade("cem", problem="lost"))
        found = rows(late, Grade("cem", {"check-cut": 3.0}))
        assert {name: float(row["total"]) for name, row in found.items()} == {"ada": 3, "bob": 4, "cem": 3}
        assert found["cem"]["problem"] == ""

    def test_what_was_not_graded_is_empty_and_not_zero(self, rows):
        found = rows(Grade("ada", {"check-cut": 0.0}, "its kernel ended"), Grade("bob", problem="not a notebook"))
        assert (found["ada"]["check-cut"], found["ada"]["check-parse"], found["ada"]["total"]) == ("0.0", "", "0.0")
        assert (found["bob"]["check-cut"], found["bob"]["total"], found["bob"]["max"]) == ("", "", "30")

    def test_names_are_quoted(self, rows):
        assert set(rows(Grade("Doe, Jr"), Grade('a "b"'), Grade("two\nlines"))) == {"Doe, Jr", 'a "b"', "two\nlines"}

    @pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "'=1", "\t=1", "''-"])
    def test_a_name_is_not_a_formula(self, rows, name):
        """And written again it does not get another apostrophe."""
        for _ in range(3):
            assert list(rows(Grade(name, problem="=cmd", note="+x"), Grade("ada"))) == sorted([f"'{name}", "ada"])
        row = rows(Grade(name, problem="=cmd", note="+x"))[f"'{name}"]
        assert (row["problem"], row["note"]) == ("'=cmd", "'+x")

    @pytest.mark.parametrize("name", ["'ada", "a=b", "", "O'Neill"])
    def test_other_names_stay(self, rows, name):
        assert list(rows(Grade(name))) == [name]

    def test_rows_of_an_earlier_version_stay_and_its_zeros_for_problems_do_not(self, rows, assignment, tmp_path):
        header = list(rows(Grade("x"))["x"])[:-1]
        old = [dict.fromkeys(header, "0") | {"student": "ada", "total": "7", "check-cut": "3", "problem": ""}]
        old.append(dict.fromkeys(header, "0") | {"student": "bob", "problem": "Kernel died"})
        with (tmp_path / "grades.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, header)
            writer.writeheader()
            writer.writerows(old)
        found = rows(Grade("cem"))
        assert (found["ada"]["total"], found["ada"]["check-cut"], found["ada"]["note"]) == ("7", "3", "")
        assert (found["bob"]["total"], found["bob"]["check-cut"], found["bob"]["problem"]) == ("", "", "Kernel died")


def test_the_table(assignment):
    partly = Grade("ada", {"check-format": 4.0, "check-parse": 0.0}, problem="the cell 'cut' ended its kernel")
    noted = Grade("cem\x1b[2J", {"check-format": 4.0}, note="found as x.ipynb")
    lines = table(assignment, [partly, Grade("bob", problem="lost"), noted]).splitlines()
    assert lines[0].split() == ["student", *("1/4 2/4 3/4 4/3 5/4 6/3 7/3 8/2 9/3".split()), "total/30"]
    assert lines[1].split(None, 11)[:11] == ["ada", "4", "0", *"-------", "4"]
    assert lines[1].endswith("  the cell 'cut' ended its kernel")
    assert lines[2].split() == ["bob", *"---------", "-", "lost"]
    assert lines[3].startswith("cem?[2J  4")
    assert lines[3].endswith("note: found as x.ipynb")
