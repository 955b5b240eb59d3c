"""What `course run` leaves for other programs: JUnit XML for a CI's page of tests, and Markdown for its summary."""

import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from xml.etree import ElementTree

from course_lib.errors import CourseError
from course_lib.execution.notebooks.results import Result
from course_lib.files import write_whole

NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


def junit(results: list[Result], profile: str) -> str:
    """One test suite with a test case for each chapter, in the dialect that GitHub, GitLab and Jenkins read.

    Args:
        results: of all chapters.
        profile: its name is the suite's.

    Returns:
        The XML.
    """
    failed = [result for result in results if result.bad]
    skipped = [result for result in results if result.status == "unchanged"]
    counts = {"tests": len(results), "failures": len(failed), "skipped": len(skipped), "errors": 0}
    suite = ElementTree.Element("testsuite", name=f"course run --profile {profile}")
    for key, value in counts.items():
        suite.set(key, str(value))
    suite.set("time", f"{sum(result.seconds for result in results):.1f}")
    for result in results:
        case = ElementTree.SubElement(
            suite, "testcase", classname="chapters", name=result.chapter, time=f"{result.seconds:.1f}"
        )
        if result.bad:
            text = NOT_IN_XML.sub("", result.message)
            first = text.splitlines()[0] if text else ""
            ElementTree.SubElement(case, "failure", message=first, type="chapter").text = text
        elif result.status == "unchanged":
            ElementTree.SubElement(case, "skipped", message="unchanged since its last result")
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def markdown(results: list[Result], profile: str) -> str:
    """A table with a row for each chapter, and what stopped those that failed.

    Args:
        results: of all chapters.
        profile: for the heading.

    Returns:
        The text.
    """
    lines = [
        f"## Chapters at profile `{profile}`",
        "",
        "| chapter | status | time | memory |",
        "| --- | --- | ---: | ---: |",
    ]
    lines += [f"| {r.chapter} | {r.status} | {r.seconds:.0f} s | {r.memory / 1e9:.2f} GB |" for r in results]
    for result in results:
        if result.bad:
            indented = "\n".join(f"    {line}" for line in result.message.splitlines())
            lines += ["", f"**{result.chapter}** {result.status}:", "", indented]
    return "\n".join(lines) + "\n"


def refuse_unwritable(files: Mapping[str, Path | None]) -> None:
    """Raise CourseError where a report could not be written: a long run should not end with that.

    Args:
        files: by the option that names each; None where the report is not wanted.
    """
    for option, path in files.items():
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise CourseError(f"Cannot write to {option} {path}: {error.strerror}.") from error
        if path.is_dir():
            raise CourseError(f"Cannot write to {option} {path}: it is a folder. Give the name of a file.")


def write_reports(results: list[Result], profile: str, junit_file: Path | None, markdown_file: Path | None) -> None:
    """Write those reports that somebody asked for.

    Args:
        results: of all chapters.
        profile: of the run.
        junit_file: for `junit`.
        markdown_file: for `markdown`.
    """
    for path, make in ((junit_file, junit), (markdown_file, markdown)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, make(results, profile))
