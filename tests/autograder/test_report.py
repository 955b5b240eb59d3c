"""The table, the CSV file, and the times at which submissions were handed in."""

import csv
import os
from datetime import UTC, datetime

import pytest

from autograder import course
from autograder.grading.report import Grade, table, write_csv
from autograder.grading.times import FORMAT, Time, handed_in, parsed, publish

CHANGED = datetime(2024, 3, 1, 12, 30, tzinfo=UTC)


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


@pytest.fixture
def submission(tmp_path):
    """A notebook in a student's folder."""
    path = tmp_path / "ada/my work/datasets.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    os.utime(path, (CHANGED.timestamp(),) * 2)
    return path


class TestTimes:
    @pytest.mark.parametrize("place", ["my work/timestamp.txt", "timestamp.txt"])
    def test_the_file_that_says_so(self, submission, tmp_path, place):
        (tmp_path / "ada" / place).write_text("2024-02-03 04:05:06 UTC\n")
        assert handed_in(submission, tmp_path / "ada") == Time("2024-02-03 04:05:06.000000 UTC")

    def test_else_when_it_was_changed(self, submission, tmp_path):
        guess = Time(CHANGED.strftime(FORMAT), guessed=True)
        assert handed_in(submission, tmp_path / "ada") == guess
        (submission.parent / "timestamp.txt").write_text("2024-02-03 04:05:06 UTC")
        assert handed_in(submission, None) == guess, "a folder that is not the student's"

    @pytest.mark.parametrize(
        "said", [b"last Tuesday, quarter past nine", b"", b"\xff\xfe2024", b"2024-13-45", b"1704164645", b"\x00"]
    )
    def test_what_is_not_a_time_is_a_note(self, submission, tmp_path, said):
        (submission.parent / "timestamp.txt").write_bytes(said)
        time = handed_in(submission, tmp_path / "ada")
        assert (time.text, time.guessed) == (CHANGED.strftime(FORMAT), True)
        assert "is not a time: when the notebook was changed counts" in time.note

    def test_a_guess_of_ours_says_nothing_of_a_new_notebook(self, submission, tmp_path):
        ours = "2024-02-03 04:05:06.000000 UTC"
        (submission.parent / "timestamp.txt").write_text(ours)
        assert handed_in(submission, tmp_path / "ada", ours).text == CHANGED.strftime(FORMAT)

    @pytest.mark.parametrize(
        ("text", "utc"),
        [
            ("2024-02-03 04:05:06 +0200", "02:05:06"),
            ("2024-02-03 04:05:06 -01:30", "05:35:06"),
            ("2024-02-03T04:05:06+02:00", "02:05:06"),
            ("2024-02-03 04:05:06 CET", "03:05:06"),
            ("2024-02-03 04:05:06", "04:05:06"),
        ],
    )
    def test_offsets(self, text, utc):
        assert parsed(text).strftime("%H:%M:%S") == utc

    def test_formgrader_reads_the_gradebooks_time_and_the_original_is_kept(self, tmp_path):
        """A timestamp.txt that is not a time would fail every page of formgrader."""
        from nbgrader.utils import parse_utc

        time = Time("2024-02-03 04:05:06.000000 UTC")
        for said in (None, "last Tuesday", "2024-02-03 06:05:06 +0200", "2024-02-03T04:05:06Z"):
            folder = tmp_path / str(said)
            folder.mkdir()
            file, kept = folder / "timestamp.txt", folder / "timestamp-as-received.txt"
            if said:
                file.write_text(said)
            publish(time, folder)
            assert parse_utc(file.read_text()).isoformat() == "2024-02-03T04:05:06"
            assert kept.is_file() == (said in ("last Tuesday", "2024-02-03 06:05:06 +0200"))
            assert said is None or said == (kept if kept.is_file() else file).read_text()

    def test_the_note_stays_when_the_file_is_replaced(self, submission, tmp_path):
        (submission.parent / "timestamp.txt").write_text("last Tuesday")
        first = handed_in(submission, tmp_path / "ada")
        publish(first, submission.parent)
        assert handed_in(submission, tmp_path / "ada", first.text) == first
