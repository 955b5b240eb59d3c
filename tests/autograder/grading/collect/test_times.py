"""When a submission was handed in: what a file says, what else counts, and what formgrader reads."""

import os
from datetime import UTC, datetime

import pytest

from autograder.grading.collect.times import FORMAT, Time, handed_in, parsed, publish

CHANGED = datetime(2024, 3, 1, 12, 30, tzinfo=UTC)


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
