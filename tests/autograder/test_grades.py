"""`course grades`: statistics, exports and similar answers, of students who may have written anything."""

import csv
import io
import json
import xml.etree.ElementTree as ET

import pytest
import small_class
from attacks.mini import HONEST

from autograder import notebook
from autograder.grading.export import export
from autograder.grading.page import figure, write_report
from autograder.grading.roster import Person, read_roster
from autograder.grading.similar import similar_pairs
from autograder.grading.standing import Standing, _messages, standings
from autograder.grading.statistics import class_statistics
from autograder.judging.judge import Verdict
from autograder.judging.results import write_results
from course_lib.cli import main
from course_lib.errors import CourseError

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture
def mini(tmp_path):
    return small_class.new_course(tmp_path / "course")


@pytest.fixture
def parts(mini):
    return notebook.parts(mini.read())


def standing(student, right, **more):
    """A student who has some parts right, and no points in the others."""
    points = {"check-double": 2, "check-scaled": 3, "check-attend": 2, "check-heads": 1, "check-counter": 2}
    return Standing(student, {part: value if part in right else 0.0 for part, value in points.items()}, **more)


@pytest.fixture
def found():
    wrong = {"check-double": f"double is off by 3 {SCRIPT}", "check-scaled": "nothing"}
    also = {"check-double": f"double is off by 41.5 {SCRIPT}"}
    return [
        standing("ann", ["check-double", "check-scaled", "check-attend", "check-heads", "check-counter"]),
        standing("=cmd()", ["check-attend"], messages=wrong),
        standing("carl", ["check-scaled", "check-attend"], messages=also, penalty=1.0),
        Standing("dora"),
    ]


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


RENAMED = (
    "def scaled(numbers, by):  # my own\n"
    "    if by == 0:\n        raise ValueError(f'factor {by} given')\n\n"
    "    return numbers * by\n"
)
OTHER = (
    "def scaled(values, factor):\n    result = np.zeros_like(values)\n    for place, value in enumerate(values):\n"
    "        result[place] = value * factor\n    assert factor, factor\n    return result\n"
)
THIRD = (
    "def scaled(values, factor):\n    return np.multiply(values, factor) if factor else ValueError(factor, values, 3)\n"
)


class TestSimilar:
    def pairs(self, answers, given="raise NotImplementedError", least=0.5):
        written = {student: {"scaled": source} for student, source in answers.items()}
        found = similar_pairs(written, {"scaled": given}, least)
        return [(pair.one, pair.other, round(pair.share, 2), pair.parts) for pair in found]

    def test_other_names_numbers_and_layout_are_the_same(self):
        found = self.pairs({"ann": HONEST["scaled"], "bob": RENAMED, "carl": OTHER, "dora": THIRD})
        assert found == [("ann", "bob", 1.0, ("scaled",))]

    def test_what_the_release_gives_does_not_count(self):
        given = HONEST["scaled"]
        assert self.pairs({"ann": given, "bob": given, "carl": given + OTHER}, given) == []

    def test_what_much_of_the_class_wrote_counts_little(self):
        many = {f"s{number}": HONEST["scaled"] for number in range(8)}
        both = {"ann": HONEST["scaled"] + OTHER, "bob": HONEST["scaled"] + THIRD}
        shares = {(one, other): share for one, other, share, _ in self.pairs(many | both, least=0.0)}
        assert shares["ann", "bob"] < 0.15
        pair = {"ann": HONEST["scaled"] + OTHER, "bob": HONEST["scaled"] + THIRD}
        assert self.pairs(pair, least=0.0)[0][2] > shares["ann", "bob"]

    def test_text_that_is_not_python(self):
        words = "this is, in my own words, 'an answer with an open quote and many more words"
        found = self.pairs({"ann": words, "bob": words.upper(), "carl": "\x00" * 10, "dora": ""})
        assert found[0][:3] == ("ann", "bob", 1.0)


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


@pytest.mark.parametrize("words", [["report"], ["export"], ["similar"]])
def test_help_has_an_example(words, capsys):
    with pytest.raises(SystemExit):
        main(["grades", *words, "--help"])
    assert f"course grades {words[0]} lora" in capsys.readouterr().out


def test_similar_from_the_command_line(tmp_path, capsys):
    from submissions import filled, put

    for student in ("ann", "bob"):
        put(filled("kv_cache", ["min-p", "top-p"]), tmp_path / f"submitted/{student}/kv_cache/kv_cache.ipynb")
    put(filled("kv_cache", []), tmp_path / "submitted/carl/kv_cache/kv_cache.ipynb")
    assert main(["grades", "similar", "kv_cache", "--course", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert " 100%  ann  bob  the same in " in said
    assert "1 pairs of 3 submissions" in said
