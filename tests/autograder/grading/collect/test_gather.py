"""`course collect`: archives and folders as platforms and strangers make them, late and extra attempts."""

import functools
import io
import json
import stat
import tarfile
import zipfile
from datetime import UTC, datetime, timedelta

import nbformat
import pytest
import small_class
from attacks.mini import submission

from autograder import course
from autograder.grading.collect.archives import Refused, unpacked
from autograder.grading.collect.gather import gather
from autograder.grading.collect.owners import owner_of, student_of
from autograder.grading.collect.policy import EXAMPLE, NAME, Policy, Rule, moment, read_policy
from autograder.grading.collect.roster import Person
from autograder.grading.run.grade import grade
from course_lib.cli import main
from course_lib.errors import CourseError

PEOPLE = {
    "ann": Person("ann", "Ann Ek", "ann@x.org", lms_id="1001"),
    "bob": Person("bob", "Bob van Os", "bob@x.org", lms_id="1002"),
    "cy": Person("cy", "Cy Lee", "cy@x.org", lms_id="1003"),
}


@functools.lru_cache  # each notebook's cells have new random ids
def written(answer="pass"):
    """A submission as bytes; the answer makes it another one."""
    return nbformat.writes(submission({"double": answer})).encode()


def zipped(entries, when=(2026, 12, 1, 23, 0, 0)):
    """A zip file of (name, bytes)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name, when), data, zipfile.ZIP_DEFLATED)
    return file.getvalue()


@pytest.fixture
def state(tmp_path):
    small_class.new_course(tmp_path / "course")
    return tmp_path / "course"


@pytest.fixture
def collect(state, tmp_path):
    """Collect from a zip file with these entries."""
    mini = small_class.Assignment("mini", state / "source/mini/mini.ipynb")

    def run(entries, people=PEOPLE, policy="", **options):
        source = tmp_path / "class.zip"
        source.write_bytes(zipped(entries, **options) if isinstance(entries, dict) else entries)
        (state / NAME).write_text(policy)
        return gather(mini, [source], state, people, read_policy(state))

    return run


def placed(state, student):
    return (state / f"submitted/{student}/mini/mini.ipynb").read_bytes()


def time_of(state, student):
    return (state / f"submitted/{student}/mini/timestamp.txt").read_text()


class TestNames:
    @pytest.mark.parametrize(
        ("name", "student"),
        [
            ("Ann Ek_20001_assignsubmission_file_", "ann"),
            ("Ann Ek_20001_assignsubmission_file_my_work.ipynb", "ann"),
            ("ekann_1001_40001_mini.ipynb", "ann"),
            ("ekann_LATE_1001_40001_mini-2.ipynb", "ann"),
            ("osbobvan_77_40001_mini.ipynb", "bob"),
            ("vanosbob_77_40001_mini.ipynb", "bob"),
            ("ann+mini+2026-12-01 22:59:00 UTC+5f3c", "ann"),
            ("ann-mini-20261201T225900Z.zip", "ann"),
            ("ekann_1001_40001_mini-20261201T225900Z.zip", "ann"),
            ("ekann_1001_40001_bob-mini-20261201T225900Z.zip", "ann"),
            ("bob.ipynb", "bob"),
            ("CY@X.org.zip", "cy"),
            ("zoe", None),
            ("1001", None),
        ],
    )
    def test_platforms(self, name, student):
        assert student_of(owner_of(name), PEOPLE) == student

    def test_two_of_one_name_are_nobody(self):
        twins = {"a1": Person("a1", "Ann Ek"), "a2": Person("a2", "Ann Ek")}
        assert student_of(owner_of("Ann Ek_1_assignsubmission_file_"), twins) is None


class TestArchives:
    def names(self, data, name="a.zip", **options):
        return ["/".join(each.path) for each in unpacked(name, data, UTC, **options)]

    @pytest.mark.parametrize("name", ["../x.ipynb", "a/../../x.ipynb", "/etc/x.ipynb", "C:/x.ipynb", "a\\..\\x.ipynb"])
    def test_names_that_lead_out(self, name):
        with pytest.raises(Refused, match="leads out of it"):
            self.names(zipped({"ok.ipynb": b"{}", name: b"{}"}))

    def test_links(self):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            entry = zipfile.ZipInfo("ann.ipynb")
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, "/etc/passwd")
        with pytest.raises(Refused, match=r"has a link or a device, 'ann\.ipynb'"):
            self.names(file.getvalue())

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
    def test_links_in_a_tar_file(self, kind):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            entry = tarfile.TarInfo("ann.ipynb")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
        with pytest.raises(Refused, match="a link or a device"):
            self.names(file.getvalue(), "a.tar.gz")

    def test_a_bomb_is_not_unpacked(self):
        with pytest.raises(Refused, match="grows too much"):
            self.names(zipped({"ann.ipynb": bytes(8 << 20)}))

    def test_a_bomb_in_a_tar_file_that_would_be_skipped(self):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            entry = tarfile.TarInfo("film.bin")
            entry.size = 80 << 20
            archive.addfile(entry, io.BytesIO(bytes(entry.size)))
        with pytest.raises(Refused, match="over 200 times its size"):
            self.names(file.getvalue(), "a.tgz")

    def test_too_much_together(self):
        with pytest.raises(Refused, match="over 1 MiB"):
            self.names(zipped({f"{n}.ipynb": written() * 40 for n in range(9)}), most=1 << 20)

    @pytest.mark.parametrize("data", [b"", b"PK\x03\x04 and then nothing", b"Rar!"])
    def test_damaged(self, data):
        with pytest.raises(Refused, match="cannot be read"):
            self.names(data)

    def test_a_zip_file_that_says_utc(self):
        entry = zipfile.ZipInfo("a.ipynb", (2026, 12, 1, 23, 0, 0))
        entry.extra = b"UT\x05\x00\x01" + int(datetime(2026, 12, 1, 22, 0, tzinfo=UTC).timestamp()).to_bytes(
            4, "little"
        )
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(entry, b"{}")
        (found,) = unpacked("a.zip", file.getvalue(), UTC)
        assert found.time == datetime(2026, 12, 1, 22, 0, tzinfo=UTC)


class TestGather:
    def test_every_layout_in_one_archive(self, collect, state):
        found = collect(
            {
                "submitted/ann/mini/mini.ipynb": written(),
                "submitted/ann/mini/timestamp.txt": "2026-12-01 10:30:00 +0200",
                "Bob van Os_20001_assignsubmission_file_/mine.zip": zipped({"work/mini.ipynb": written("1")}),
                "leecy_1003_40001_mini.ipynb": written("2"),
                "zoe_LATE_9999_40001_mini.ipynb": written("3"),
                "readme.txt": "nothing",
                "__MACOSX/._x.ipynb": "nothing",
            }
        )
        assert sorted(found.chosen) == ["ann", "bob", "cy"]
        assert (found.unknown, found.missing, found.refused) == (["zoe"], [], {})
        assert placed(state, "bob") == written("1")
        assert time_of(state, "ann") == "2026-12-01 08:30:00.000000 UTC"
        assert not (state / "submitted/zoe").exists()

    def test_a_students_archive_that_is_refused_costs_nobody_else(self, collect, state):
        bad = zipped({"../../mini.ipynb": written()})
        deep = written("x")
        for _ in range(5):
            deep = zipped({"in.zip" if deep[:2] == b"PK" else "mini.ipynb": deep})
        found = collect({"ann.zip": bad, "bob.zip": deep, "cy/mini.ipynb": written()})
        assert sorted(found.chosen) == ["cy"]
        assert found.missing == ["ann", "bob"]
        assert "leads out of it" in found.refused["ann.zip"]
        assert any("lies in over 3 archives" in why for why in found.refused.values())
        assert not list(state.rglob("../mini.ipynb"))

    def test_a_class_archive_that_is_refused_leaves_nothing(self, collect, state):
        with pytest.raises(CourseError, match="so nothing was taken from it"):
            collect({"ann/mini.ipynb": written(), "../bob.ipynb": written()})
        assert not (state / "collected").exists()

    def test_without_a_roster_everybody_is_known(self, collect, state):
        found = collect({"zoe/mini.ipynb": written(), "x\x1b[2J.ipynb": written("1")}, people={})
        assert "zoe" in found.chosen
        assert all(name.isprintable() for name in found.chosen)
        assert found.missing == []

    def test_notebooks_of_others_and_of_nobody(self, state, tmp_path):
        from submissions import filled

        other = nbformat.writes(filled("qlora", [])).encode()
        nothing = nbformat.writes(nbformat.v4.new_notebook()).encode()
        entries = {"ann/qlora.ipynb": other, "bob/x.ipynb": nothing, "cy/kv_cache.ipynb": b"{broken"}
        (tmp_path / "class.zip").write_bytes(zipped(entries))
        found = gather(course.find("kv_cache"), [tmp_path / "class.zip"], state, PEOPLE, None)
        assert list(found.chosen) == ["cy"]
        assert found.refused == {"bob/x.ipynb": "is none of the course's assignments"}

    def test_folders_with_links(self, state, tmp_path):
        source = tmp_path / "in"
        (source / "ann").mkdir(parents=True)
        (source / "ann" / "mini.ipynb").write_bytes(written())
        (source / "bob.ipynb").symlink_to(source / "ann" / "mini.ipynb")
        mini = small_class.Assignment("mini", state / "source/mini/mini.ipynb")
        found = gather(mini, [source], state, PEOPLE, None)
        assert list(found.chosen) == ["ann"]
        assert list(found.refused.values()) == ["is a link or a device"]


class TestAttempts:
    POLICY = '[mini]\ndue = "2026-12-01 23:59+01:00"\nattempts = 2\n[mini.students.bob]\nattempts = 3\n'

    def three(self, collect, **options):
        """Three attempts of two students: at 20:00, 22:00 and, late, at 23:00 UTC."""
        for hour, answer in ((22, "2"), (20, "1"), (23, "3")):
            when = (2026, 12, 1, hour, 0, 0)
            found = collect(
                {"ann/mini.ipynb": written(answer), "bob/mini.ipynb": written(f"b{answer}")}, when=when, **options
            )
        return found

    def test_the_first_ones_count_and_the_latest_of_them_is_taken(self, collect, state):
        found = self.three(collect, policy=self.POLICY)
        assert (found.attempts, found.not_counted) == ({"ann": 2, "bob": 3}, {"ann": 1})
        assert placed(state, "ann") == written("2")
        assert placed(state, "bob") == written("b3")
        assert found.chosen["bob"].late == timedelta(minutes=1).total_seconds()
        assert found.chosen["ann"].late == 0
        assert time_of(state, "bob") == "2026-12-01 23:00:00.000000 UTC"

    def test_latest_in_time(self, collect, state):
        found = self.three(collect, policy=self.POLICY.replace("attempts = 2", 'keep = "latest-in-time"\nattempts = 2'))
        assert placed(state, "bob") == written("b2")
        assert found.chosen["bob"].late == 0

    def test_the_same_download_again_is_no_other_attempt(self, collect, state):
        self.three(collect)
        found = self.three(collect)
        assert found.attempts == {"ann": 3, "bob": 3}
        assert not list(state.rglob("*.until-*"))

    def test_times_without_a_zone_are_the_courses(self, collect, state):
        collect({"ann/mini.ipynb": written()}, policy='timezone = "America/New_York"\n')
        assert time_of(state, "ann") == "2026-12-02 04:00:00.000000 UTC"


class TestPolicy:
    def rule(self, **more):
        return Rule(due=datetime(2026, 12, 1, 23, 0, tzinfo=UTC), **more)

    def at(self, **late):
        return datetime(2026, 12, 1, 23, 0, tzinfo=UTC) + timedelta(**late)

    def test_the_example_is_read(self, tmp_path):
        (tmp_path / NAME).write_text(EXAMPLE)
        policy = read_policy(tmp_path)
        assert policy.rule("lora", "bob").due == datetime(2026, 12, 1, 22, 59, tzinfo=UTC)  # winter in Berlin
        ann = policy.rule("lora", "ann")
        assert (ann.due.day, ann.attempts, ann.percent_per_day) == (8, 5, 10)
        assert policy.rule("sft", "ann") == Rule()

    def test_grace_days_and_the_lowest(self):
        rule = self.rule(grace_minutes=10, percent_per_day=10, lowest_percent=40, closed_after_days=7)
        assert rule.penalty(self.at(minutes=10), 20, 30) == 0
        assert rule.penalty(self.at(minutes=11), 20, 30) == 3
        assert rule.penalty(self.at(hours=25), 20, 30) == 6
        assert rule.penalty(self.at(days=5), 20, 30) == 8  # 12 of 30 are left
        assert rule.penalty(self.at(days=5), 9, 30) == 0
        assert rule.penalty(self.at(days=8), 20, 30) == 20

    @pytest.mark.parametrize(
        ("said", "utc"),
        [
            ("2026-07-01 12:00", "2026-07-01T10:00"),
            ("2026-12-01T12:00", "2026-12-01T11:00"),
            ("2026-12-01 12:00+05:30", "2026-12-01T06:30"),
            ("2026-12-01 12:00Z", "2026-12-01T12:00"),
        ],
    )
    def test_zones(self, said, utc):
        from zoneinfo import ZoneInfo

        assert f"{moment(said, ZoneInfo('Europe/Berlin'), 'x'):%Y-%m-%dT%H:%M}" == utc

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("[lora]\ndue = 2026-12-01", "write a date and a time"),
            ('[lora]\ndue = "01/12/2026 10:00"', "write a date and a time"),
            ('[lora]\ndue = "tomorrow"', "write a date and a time"),
            ("[lora]\nattempt = 3", "Did you mean"),
            ("[lora]\nattempts = 0", "attempts of lora is 0"),
            ('[lora]\nkeep = "best"', "say latest or latest-in-time"),
            ("[lora.students.ann]\npercent_per_day = -1", "and not negative"),
            ('timezone = "Middle/Earth"', "no time zone 'Middle/Earth'"),
            ('timezone = "../etc/passwd"', "no time zone"),
            ("lora = 3", "'lora' is not a table"),
            ("[lora]\nstudents = 3", r"stands below \[lora.students.ID\]"),
            ("[lora.students]\nann = 3", r"stands below \[lora.students.ID\]"),
            ("[lora]\npercent_per_day = nan", "percent_per_day of lora is nan"),
            ("timezone = 3", "no time zone 3"),
            ("[lora", "is not TOML"),
        ],
    )
    def test_what_is_no_rule(self, tmp_path, text, problem):
        (tmp_path / NAME).write_text(text)
        with pytest.raises(CourseError, match=problem):
            read_policy(tmp_path)

    def test_rules_for_no_assignment_are_noted(self, tmp_path):
        policy = Policy({"lora": {}, "softmx": {"attempts": 1}}, tmp_path / NAME)
        (note,) = policy.notes(["lora", "softmax"])
        assert note.endswith("has rules for 'softmx', and there is no such assignment. Did you mean softmax?")

    def test_no_file_is_no_policy(self, tmp_path):
        assert read_policy(tmp_path) is None
        assert Policy({}, tmp_path).rule("lora", "ann") == Rule()


@pytest.mark.slow
@pytest.mark.xdist_group("jobs")
def test_a_late_submission_loses_points_and_formgrader_knows_why(collect, state):
    policy = (
        '[mini]\ndue = "2026-12-01 21:00"\npercent_per_day = 10\n'
        '[mini.students.bob]\ndue = "2026-12-03 21:00"\n[mini.students.cy]\nclosed_after_days = 0.01\n'
    )
    honest = nbformat.writes(submission({})).encode()
    found = collect({f"{student}/mini.ipynb": honest for student in PEOPLE}, policy=policy)
    assert found.missing == []
    mini = small_class.Assignment("mini", state / "source/mini/mini.ipynb")

    def graded():
        from autograder.grading.collect.submissions import find_submissions

        grades = grade(mini, find_submissions(mini, state / "submitted"), state, say=lambda line: None)
        return {each.student: (each.total, each.note) for each in grades}

    assert graded() == {
        "ann": (9, "late by 2 h, 1 points off"),
        "bob": (10, ""),
        "cy": (0, "late by 2 h, 10 points off"),
    }
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{state / 'gradebook.db'}") as book:
        assert book.find_assignment("mini").duedate == datetime(2026, 12, 1, 21, 0)
        assert book.find_submission("mini", "ann").total_seconds_late == 7200
        assert book.find_submission("mini", "bob").total_seconds_late == 0
        assert book.find_submission("mini", "ann").late_submission_penalty == 1
    (state / NAME).write_text(policy.replace("percent_per_day = 10", "percent_per_day = 30"))
    assert graded()["ann"] == (7, "late by 2 h, 3 points off")
    assert json.loads((state / "autograded/graded-mini.json").read_text())["ann"]["digest"]


def test_the_command_names_everybody(state, tmp_path, capsys, monkeypatch):
    from submissions import filled

    work = nbformat.writes(filled("kv_cache", [])).encode()
    (tmp_path / "class.zip").write_bytes(zipped({"ann/kv_cache.ipynb": work, "zoe/kv_cache.ipynb": work}))
    (state / "roster.csv").write_text("student,name\nann,Ann\nbob,Bob\n")
    assert main(["collect", "kv_cache", str(tmp_path / "class.zip"), "--course", str(state)]) == 1
    said = capsys.readouterr().out
    assert "ann  2026-12-01 23:00 UTC, in time  (1 attempt)" in said
    assert "unknown: zoe is not on the roster" in said
    assert "missing: bob has handed in nothing" in said
    with pytest.raises(SystemExit):
        main(["collect", "--help"])
    assert "course collect lora submissions.zip" in capsys.readouterr().out
