"""The reports that `course run` leaves for a CI."""

from xml.etree import ElementTree

from course_lib.execution.notebooks.reports import junit, markdown, write_reports
from course_lib.execution.notebooks.results import Result

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
