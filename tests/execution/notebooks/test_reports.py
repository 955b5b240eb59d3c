"""The reports that `course run` leaves for a CI."""

from xml.etree import ElementTree

import pytest

from course_lib.cli import main
from course_lib.execution.notebooks.reports import junit, markdown, write_reports
from course_lib.execution.notebooks.results import Result
from course_lib.execution.notebooks.runner import Runner

RESULTS = [
    Result("00_first", "executed", 12.34, 800_000_000),
    Result("01_second", "unchanged"),
    Result("02_third", "failed", 3.0, message="02_third failed in cell 3 of 9: <ValueError> & \x1b[31mred\x00\nmore"),
]


def test_junit_is_what_a_ci_reads():
    suite = ElementTree.fromstring(junit(RESULTS, "smoke"))
    assert {key: suite.get(key) for key in ("tests", "failures", "skipped", "time")} == {
        "tests": "3",
        "failures": "1",
        "skipped": "1",
        "time": "15.3",
    }
    first, second, third = suite.findall("testcase")
    assert (first.get("name"), first.get("time"), len(first)) == ("00_first", "12.3", 0)
    assert second.find("skipped") is not None
    failure = third.find("failure")
    assert failure.get("message") == "02_third failed in cell 3 of 9: <ValueError> & [31mred"  # no control characters
    assert failure.text.endswith("more")


def test_markdown_has_a_row_for_each_and_the_reasons():
    text = markdown(RESULTS, "smoke")
    assert "| 00_first | executed | 12 s | 0.80 GB |" in text
    assert "**02_third** failed:" in text
    assert "    more" in text


def test_only_what_was_asked_for_is_written(tmp_path):
    write_reports(RESULTS, "cpu", tmp_path / "ci" / "junit.xml", None)
    assert [path.name for path in (tmp_path / "ci").iterdir()] == ["junit.xml"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--junit", "{here}/a file/j.xml"], "Cannot write to --junit"),
        (["--summary", "{here}"], "it is a folder. Give the name of a file."),
        (["--timeout", "nan"], "--timeout nan cannot be used"),
        (["--seed", "-1"], "--seed -1 cannot be used. NumPy takes whole numbers from 0 to 4294967295"),
        (["--seed", str(2**32)], "--seed 4294967296 cannot be used"),
    ],
)
def test_what_would_fail_after_a_long_run_is_refused_before_it(tmp_path, capsys, monkeypatch, words, said):
    (tmp_path / "a file").write_text("")
    monkeypatch.setattr(Runner, "run", lambda *_: pytest.fail("it has begun"))
    filled = [word.format(here=tmp_path) for word in words]
    assert main(["run", "00", "--profile", "smoke", "--out", str(tmp_path / "out"), *filled]) == 2
    assert said in capsys.readouterr().err
