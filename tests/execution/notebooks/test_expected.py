"""Expected numbers: written from a run, compared with the next, with bands that a person may change."""

import argparse
import json

import pytest

from course_lib.commands import run as command
from course_lib.errors import CourseError
from course_lib.execution.notebooks.expected import (
    band_of,
    band_text,
    compare_with_expected,
    drifts,
    flattened,
    write_expected,
)
from course_lib.execution.notebooks.project import Chapter
from course_lib.execution.notebooks.reports import junit, markdown
from course_lib.execution.notebooks.results import Result

RECORDED = {"loss": 2.5, "parameters": 460_800, "identical": True, "errors": {"NF4": [0.07, 0.2]}, "switch_ms": 3.1}


@pytest.fixture
def written(tmp_path):
    """The content that `write_expected` makes of RECORDED; written.chapter is its chapter."""

    class Content(dict):
        pass

    chapter = Chapter(tmp_path / "03_lora.ipynb")
    path = write_expected(chapter, "smoke", 0, RECORDED)
    assert path == tmp_path / "expected/smoke/03_lora.json"
    content = Content(json.loads(path.read_text()))
    content.chapter, content.path = chapter, path
    return content


def test_nested_values_get_names():
    assert flattened({"a": {"b": [1, {"c": 2}]}, "d": 3}) == {"a.b.0": 1, "a.b.1.c": 2, "d": 3}


def test_the_same_numbers_are_no_drift(written):
    assert list(drifts(written, RECORDED)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss": 2.51}, ["loss is 2.51, expected 2.5 ± 0.0025."]),
        ({"loss": 2.502}, []),
        ({"parameters": 460_801}, ["parameters is 460801, expected 460800."]),
        ({"identical": False}, ["identical is False, expected True."]),
        ({"errors": {"NF4": [0.07, 0.21]}}, ["errors.NF4.1 is 0.21, expected 0.2 ± 0.0002."]),
        ({"errors": {"NF4": [0.07]}}, ["errors.NF4.1 was not recorded; expected 0.2."]),
        ({"loss": "none"}, ["loss is 'none', expected 2.5 ± 0.0025."]),
        ({"switch_ms": 99.0}, []),
        ({"one_more": 1.0}, []),
    ],
)
def test_a_drift_is_named_with_both_values(written, change, said):
    assert list(drifts(written, RECORDED | change)) == said


def test_rounding_around_zero_is_no_drift(tmp_path):
    expected = {"values": {"difference": 2e-16}}
    assert list(drifts(expected, {"difference": 7e-16})) == []
    assert list(drifts(expected, {"difference": 1e-3})) == ["difference is 0.001, expected 2e-16 ± 1e-06."]


def test_a_rounding_error_may_be_anything_below_its_limit(tmp_path):
    recorded = {"peft_difference": 4.4e-5, "float64_error": 9e-17, "exact_difference": 0.0, "errors": {"NF4": 0.07}}
    content = json.loads(write_expected(Chapter(tmp_path / "01_x.ipynb"), "smoke", 0, recorded).read_text())
    limits = {"peft_difference": {"at_most": 1e-3}} | dict.fromkeys(
        ["float64_error", "exact_difference"], {"at_most": 1e-6}
    )
    assert content["tolerances"] == limits
    assert list(drifts(content, recorded | {"peft_difference": 9e-4, "exact_difference": 1e-7})) == []
    assert list(drifts(content, recorded | {"peft_difference": 2e-3})) == [
        "peft_difference is 0.002, expected 4.4e-05 and at most 0.001."
    ]
    assert band_text(content, "peft_difference") == "at most 0.001"
    assert band_text(content, "errors.NF4") == "± 7.1e-05"


def test_a_persons_bands_hold_and_stay(written):
    written["tolerances"] |= {"errors.*": {"relative": 0.5}, "parameters": {"absolute": 2, "relative": 0}, "loss": None}
    assert list(drifts(written, RECORDED | {"loss": 9.0, "parameters": 460_802, "errors": {"NF4": [0.1, 0.2]}})) == []
    assert len(list(drifts(written, RECORDED | {"parameters": 460_803}))) == 1
    written.path.write_text(json.dumps(written))
    write_expected(written.chapter, "smoke", 0, RECORDED | {"loss": 9.0})
    again = json.loads(written.path.read_text())
    assert again["tolerances"] == written["tolerances"]
    assert again["values"]["loss"] == 9.0
    assert band_of(again, "loss") is None


def test_what_depends_on_the_machine_is_left_out_by_name(tmp_path):
    recorded = {"step_seconds": 1.0, "times": {"a": 2.0}, "peak_bytes.bfloat16": 3, "sometimes": 4.0, "loss_s": 5.0}
    path = write_expected(Chapter(tmp_path / "01_x.ipynb"), "smoke", 0, recorded)
    assert set(json.loads(path.read_text())["tolerances"]) == {"step_seconds", "times.a", "peak_bytes.bfloat16"}


def test_results_are_marked_and_reported(written):
    results = [
        Result("03_lora", "executed", recorded=RECORDED | {"loss": 3.0}),
        Result("04_none", "executed"),
        Result("05_failed", "failed", message="05_failed failed"),
    ]
    chapters = {name: Chapter(written.chapter.path.with_name(f"{name}.ipynb")) for name in ("03_lora", "04_none")}
    assert compare_with_expected(chapters, results, "smoke", 0) == ["04_none"]
    assert [result.status for result in results] == ["drifted", "executed", "failed"]
    assert "loss is 3, expected 2.5 ± 0.0025" in results[0].message
    assert 'failures="2"' in junit(results, "smoke")
    assert "**03_lora** drifted:" in markdown(results, "smoke")
    assert compare_with_expected(chapters, results[:1], "smoke", 1) == ["03_lora"], "other seeds have other numbers"


def test_the_command(chapter, tmp_path, capsys):
    """--write-expected, then --check-expected on the same and on another notebook."""
    record = "import json, os\nos.mkdir('outputs')\njson.dump({{'loss': {}}}, open('outputs/record.json', 'w'))"
    path, out = str(chapter(record.format(2.5)).path), str(tmp_path / "out")

    def course_run(*options):
        parser = argparse.ArgumentParser()
        command.add_parser(parser.add_subparsers())
        args = parser.parse_args(["run", path, "--profile", "smoke", "--out", out, *options])
        status = args.run(args)
        said = capsys.readouterr()
        return status, said.out + said.err

    status, said = course_run("--check-expected")
    assert status == 1, "nothing was compared"
    assert "not compared: 01_tiny. There are no expected numbers for profile smoke" in said
    assert course_run("--write-expected")[0] == 0
    assert course_run("--check-expected")[0] == 0
    chapter(record.format(2.6))
    status, said = course_run("--check-expected", "--junit", str(tmp_path / "junit.xml"))
    assert status == 1
    assert "loss is 2.6, expected 2.5 ± 0.0025." in said
    assert "drifted" in said
    assert 'failures="1"' in (tmp_path / "junit.xml").read_text()
    with pytest.raises(CourseError, match="Leave --set and -p out"):
        course_run("--check-expected", "--set", "03_lora.steps=1")
    with pytest.raises(CourseError, match="--cell-timeout -1 cannot be used"):
        course_run("--cell-timeout", "-1")
