"""What Jupyter Book is given: book/ and what is generated beside it."""

import json
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import course_lib
from course_lib.errors import CourseError
from course_lib.execution.notebooks.expected import band_of, flattened
from course_lib.publishing.glossary import link_terms, terms_of
from course_lib.publishing.libraries_page import libraries_page
from course_lib.publishing.numbers import check_numbers
from course_lib.publishing.parity_page import ensure_rows, parity_page


def assemble(root: Path, runs: Path, sources: Path, repository: str | None = None) -> None:
    """Fill a folder with everything Jupyter Book is given: prose, executed chapters, downloads and generated pages.

    Args:
        root: the clone.
        runs: the folder of the executed chapters.
        sources: the folder to fill; it must not exist.
        repository: the address of the published repository; None: the one in book/_config.yml.

    Raises:
        CourseError: a chapter has not been executed, one of its outputs is an error, or a number in a sentence is not
            what the run measured.
    """
    shutil.copytree(root / "book", sources)
    if repository:
        config = sources / "_config.yml"
        config.write_text(re.sub(r"(?m)^  url: .*$", lambda _: f"  url: {repository}", config.read_text(), count=1))
    chapters = re.findall(r"file: (notebooks/\w+)", (sources / "_toc.yml").read_text())
    (sources / "notebooks").mkdir()
    terms = terms_of((sources / "glossary.md").read_text())
    metrics = []
    for chapter in (Path(name).name for name in chapters):
        notebook, measured = _executed(runs, chapter)
        check_numbers(notebook, measured, chapter)
        text = json.dumps(link_terms(page(notebook, chapter), terms))
        (sources / "notebooks" / f"{chapter}.ipynb").write_text(text)
        metrics.append(measured)
    (sources / "runs.md").write_text(runs_page(metrics, _expected(root, metrics)))
    (sources / "parity.md").write_text(parity_page(ensure_rows(root)))
    (sources / "libraries.md").write_text(libraries_page(ensure_rows(root, "libraries")))
    _data_cards(sources / "data-sets.md")
    write_api_pages(sources / "api")
    _fetch_assignments(sources / "assignments")


def _executed(runs: Path, chapter: str) -> tuple[dict, dict]:
    folder = runs / chapter
    try:
        notebook = json.loads((folder / "notebook.ipynb").read_text(encoding="utf-8"))
        return notebook, json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except OSError as error:
        number = chapter.split("_")[0]
        raise CourseError(f"Chapter {chapter} has not been executed into {runs}: `course run {number}`.") from error


def page(notebook: dict, chapter: str) -> dict:
    """An executed notebook as a page, without papermill's injected cell and without what went to stderr.

    Args:
        notebook: the executed notebook. Its stderr holds libraries' warnings and progress bars.
        chapter: its name, for messages.

    Returns:
        The page's notebook.

    Raises:
        CourseError: a cell was never run, its output is an error that nobody expects, or an image without alternative
            text.
    """
    cells: list[dict] = []
    for cell in notebook["cells"]:
        if "injected-parameters" in cell["metadata"].get("tags", []):
            continue
        if cell["cell_type"] == "code":
            _refuse_faults(cell, f"{chapter}, cell {cell.get('id', len(cells) + 1)}")
            cell = {**cell, "outputs": [_shown(o) for o in cell["outputs"] if o.get("name") != "stderr"]}
        cells.append(cell)
    return {**notebook, "cells": cells}


def _shown(output: dict) -> dict:
    """An output as readers see it: of an expected error its last line, because the others name files of one machine."""
    if output["output_type"] == "error":
        return {**output, "traceback": [f"{output['ename']}: {output['evalue']}"]}
    return output


def _refuse_faults(cell: dict, where: str) -> None:
    tags = cell["metadata"].get("tags", [])
    if "".join(cell["source"]).strip() and cell.get("execution_count") is None and "skip-execution" not in tags:
        raise CourseError(f"{where}: it was never run, so its notebook is not complete. Run the chapter again.")
    for output in cell["outputs"]:
        if output["output_type"] == "error" and "raises-exception" not in tags:
            raise CourseError(f"{where}: its output is an error ({output['ename']}: {output['evalue']}).")
        if any(kind.startswith("image/") for kind in output.get("data", {})) and not alt_text(cell):
            raise CourseError(
                f'{where}: its image has no alternative text: add {{"mystnb": {{"image": {{"alt": "…"}}}}}} to the '
                "cell's metadata."
            )


def alt_text(cell: dict) -> str:
    """What a reader who cannot see the cell's image is told."""
    return cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "").strip()


def _expected(root: Path, metrics: list[dict]) -> dict[str, dict]:
    """The expected numbers of those chapters that have some at the profile they were run with."""
    found = {}
    for measured in metrics:
        path = root / "notebooks" / "expected" / measured["profile"] / f"{measured['chapter']}.json"
        if path.is_file():
            found[measured["chapter"]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _numbers(recorded: dict, expected: dict | None) -> str:
    """What a chapter recorded; beside what `course run --check-expected` compares it with, where there is that."""
    if expected is None:
        return _table(recorded)
    lines = ["| what | value | expected | band |", "| --- | --- | --- | --- |"]
    for name, value in flattened(recorded).items():
        band = band_of(expected, name) if name in expected["values"] else None
        if band is None:  # not compared
            wanted, width = "", ""
        else:
            wanted, width = _text(expected["values"][name]), f"± {band:.2g}" if band else "equal"
        lines.append(f"| {name.replace('_', ' ')} | {_text(value)} | {wanted} | {width} |")
    return "\n".join(lines)


def runs_page(metrics: list[dict], expected: Mapping[str, dict] | None = None) -> str:
    """The page that says what the numbers of this book were made with.

    Args:
        metrics: of each chapter.
        expected: the expected numbers by chapter, where there are any.

    Returns:
        The page in Markdown.
    """
    rows = "\n".join(
        f"| {m['chapter']} | `{m['profile']}` | {m['duration_s']:.0f} s | {m['peak_memory_bytes'] / 1e9:.2f} GB "
        f"| {m['finished'][:10]} | `{(m['commit'] or 'none')[:10]}` |"
        for m in metrics
    )
    known = expected or {}
    recorded = "\n\n".join(f"### {m['chapter']}\n\n{_numbers(m['recorded'], known.get(m['chapter']))}" for m in metrics)
    hardware = {k: v for k, v in metrics[0]["hardware"].items() if k != "memory_bytes"} if metrics else {}
    if metrics and metrics[0]["hardware"]["memory_bytes"]:
        hardware["memory"] = f"{metrics[0]['hardware']['memory_bytes'] / 2**30:.0f} GiB"
    versions = metrics[0]["versions"] if metrics else {}
    return f"""# The runs behind these pages

Every chapter was executed headless by `course run`, which wrote down what it took. Memory is the peak of the
chapter's own process.

| chapter | profile | time | peak memory | date | commit |
| --- | --- | --- | --- | --- | --- |
{rows}

## Recorded numbers

{recorded}

## Machine

{_table(hardware)}

## Versions

{_table(versions)}
"""


def _table(values: dict) -> str:
    lines = [f"| {key.replace('_', ' ')} | {_text(value)} |" for key, value in values.items()]
    return "\n".join(["| what | value |", "| --- | --- |", *lines])


def _text(value: object) -> str:
    """Six digits of a float, commas in an integer, a list's items."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


# What is started and not imported: no API page
PROGRAMS = {"commands", "setup", "convert", "worker"}


def write_api_pages(folder: Path) -> None:
    """One page for each room of course_lib, from its docstrings: every public module with its members."""
    folder.mkdir()
    package = Path(course_lib.__file__).parent
    rooms = [info.name for info in pkgutil.iter_modules([str(package)]) if info.ispkg and info.name not in PROGRAMS]
    lines = ["# API reference", "", "One page for each room of `course_lib`, made from the docstrings of the code.", ""]
    for room in rooms:
        modules = [info.name for info in pkgutil.iter_modules([str(package / room)]) if not info.name.startswith("_")]
        parts = [f"# course_lib.{room}", _automodule(f"course_lib.{room}", members=False)]
        for module in modules:
            if module in PROGRAMS:
                continue
            parts += [f"## {module}", _automodule(f"course_lib.{room}.{module}", members=True)]
        (folder / f"course_lib.{room}.md").write_text("\n\n".join(parts) + "\n")
        lines.append(f"- {{doc}}`course_lib.{room} <course_lib.{room}>`")
    (folder / "index.md").write_text("\n".join(lines) + "\n")


def _automodule(name: str, members: bool) -> str:
    options = "\n   :members:\n   :show-inheritance:" if members else "\n   :no-members:"
    return f"```{{eval-rst}}\n.. automodule:: {name}{options}\n```"


def _data_cards(path: Path) -> None:
    """One page of all data sets that the package carries; each card's title becomes a section."""
    from course_lib.data.generators import cards

    sections = [re.sub(r"(?m)^#", "##", card) for card in cards().values()]
    intro = "What the package carries or generates, so that no chapter needs a network (`course data card`)."
    path.write_text("\n\n".join(["# Data sets", intro, *sections]) + "\n")


def _fetch_assignments(folder: Path) -> None:
    """The released notebooks that the assignment pages offer, through the command a student uses: this package does
    not import the autograder."""
    for page_ in sorted(folder.glob("*.md")):
        if page_.stem == "index":
            continue
        command = [sys.executable, "-m", "course_lib.cli", "assignment", "get", page_.stem, "--to"]
        done = subprocess.run([*command, str(folder / "downloads")], capture_output=True, text=True)
        if done.returncode:
            raise CourseError(f"The assignment {page_.stem} could not be released: {done.stderr.strip()}")
