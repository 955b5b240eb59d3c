"""What Jupyter Book is given: book/ and what is generated beside it."""

import ast
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import course_lib
from course_lib.errors import CourseError
from course_lib.publishing.glossary import link_terms, terms_of
from course_lib.publishing.libraries_page import libraries_page
from course_lib.publishing.numbers import check_numbers
from course_lib.publishing.parity_page import ensure_rows, parity_page
from course_lib.publishing.runs_page import runs_page

SVG = "image/svg+xml"
LARGEST_SVG = 120_000  # characters; a figure of many points is smaller as PNG
WIDEST_ON_A_PHONE = 5.6 * 72  # points; a wider figure keeps its size and scrolls


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
    _name_repository(sources)
    titles = dict(
        re.findall(r"file: notebooks/(\w+)\n +title: (.+)", (sources / "_toc.yml").read_text(encoding="utf-8"))
    )
    (sources / "notebooks").mkdir()
    terms = terms_of((sources / "glossary.md").read_text())
    metrics = []
    for chapter in titles:
        notebook, measured = _executed(runs, chapter)
        check_numbers(notebook, measured, chapter)
        text = json.dumps(link_terms(page(notebook, chapter), terms))
        (sources / "notebooks" / f"{chapter}.ipynb").write_text(text)
        metrics.append(measured)
    (sources / "runs.md").write_text(runs_page(metrics, _expected(root, metrics), titles))
    (sources / "parity.md").write_text(parity_page(ensure_rows(root)))
    (sources / "libraries.md").write_text(libraries_page(ensure_rows(root, "libraries")))
    _data_cards(sources / "data-sets.md")
    write_api_pages(sources / "api")
    _fetch_assignments(sources / "assignments")
    index = sources / "assignments" / "index.md"
    index.write_text(with_assignment_table(index.read_text(), assignment_rows(), sources))


def _name_repository(sources: Path) -> None:
    """Put the published repository's address where a page says REPOSITORY, so that its commands can be copied."""
    address = re.search(r"(?m)^  url: (\S+)$", (sources / "_config.yml").read_text())
    for path in sorted(sources.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if address and "REPOSITORY" in text:
            path.write_text(text.replace("REPOSITORY", address[1]), encoding="utf-8")


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
            if any(_is_wide(output) for output in cell["outputs"]):
                cell["metadata"] = _with_class(cell["metadata"], "wide-figure")
        cells.append(cell)
    return {**notebook, "cells": cells}


def _shown(output: dict) -> dict:
    """An output as readers see it: of an expected error its last line, because the others name files of one machine."""
    if output["output_type"] == "error":
        return {**output, "traceback": [f"{output['ename']}: {output['evalue']}"]}
    data = output.get("data", {})
    if SVG in data and "image/png" in data:  # a figure, kept in both formats
        large = len("".join(data[SVG])) > LARGEST_SVG
        left_out = SVG if large else "image/png"
        return {**output, "data": {kind: text for kind, text in data.items() if kind != left_out}}
    return output


def _is_wide(output: dict) -> bool:
    """Whether it is a figure whose text would be too small if a phone shrank it to its own width."""
    width = re.search(r'<svg[^>]* width="([\d.]+)pt"', "".join(output.get("data", {}).get(SVG, "")))
    return width is not None and float(width[1]) > WIDEST_ON_A_PHONE


def _with_class(metadata: dict, name: str) -> dict:
    """A cell's metadata that give its image a class."""
    described = metadata.get("mystnb", {})
    return {**metadata, "mystnb": {**described, "image": {**described.get("image", {}), "classes": name}}}


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


# What is started and not imported, and what only the build and the benchmarks of this project need: no API page
PROGRAMS = {"commands", "setup", "convert", "worker", "publishing", "benchmarks"}
SINGLE_MODULES = ("errors", "plotting", "seeding", "tables")


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
        lines.append(f"- {{doc}}`course_lib.{room} <course_lib.{room}>`: {_purpose(package / room / '__init__.py')}")
    single = [f"## {name}\n\n{_automodule(f'course_lib.{name}', members=True)}" for name in SINGLE_MODULES]
    (folder / "course_lib.single.md").write_text("\n\n".join(["# Single modules of course_lib", *single]) + "\n")
    lines.append("- {doc}`Single modules <course_lib.single>`: " + ", ".join(f"`{name}`" for name in SINGLE_MODULES))
    (folder / "index.md").write_text("\n".join(lines) + "\n")


def _purpose(module: Path) -> str:
    """The first sentence of a room's docstring, without the room's name before it."""
    text = " ".join((ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").split())
    sentence = re.split(r"\.(?: |$)", text, maxsplit=1)[0]
    named = re.fullmatch(r"[\w-]+: (.*)", sentence)
    return named[1] if named else sentence[:1].lower() + sentence[1:]


def _automodule(name: str, members: bool) -> str:
    options = "\n   :members:\n   :show-inheritance:" if members else "\n   :no-members:"
    return f"```{{eval-rst}}\n.. automodule:: {name}{options}\n```"


def _data_cards(path: Path) -> None:
    """One page of all data sets that the package carries; each card's title becomes a section."""
    from course_lib.data.generators import cards

    sections = [re.sub(r"(?m)^#", "##", card) for card in cards().values()]
    intro = "What the package carries or generates, so that no chapter needs a network (`course data card`)."
    path.write_text("\n\n".join(["# Data sets", intro, *sections]) + "\n")


TABLE = "<!-- assignments: points, parts and times come from the sources at build time -->"


def assignment_rows() -> list[dict]:
    """What the assignments' sources say of themselves, through the command a student uses.

    Raises:
        CourseError: The command failed; with what it said.
    """
    command = [sys.executable, "-m", "course_lib.cli", "assignment", "list", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COURSE_DIR": ""})
    if done.returncode:
        raise CourseError(f"The assignments could not be listed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def with_assignment_table(text: str, rows: list[dict], folder: Path) -> str:
    """The page of assignments with its table in the place of the marker.

    Args:
        text: The page, which has the line `TABLE`.
        rows: What `course assignment list --json` says.
        folder: The book's sources: a page of each assignment gives its title.

    Returns:
        The page.

    Raises:
        CourseError: The source of an assignment does not say how long it takes.
    """
    for row in rows:
        if not row["hours"]:
            raise CourseError(f"The source of the assignment {row['name']} does not say its hours: add course.hours.")
    lines = [
        "| assignment | after chapter | you write | parts | points | time |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for row in sorted(rows, key=lambda row: row["chapter"] or "~"):
        page_ = folder / "assignments" / f"{row['name']}.md"
        title = re.search(r"(?m)^# (.*)$", page_.read_text())
        words = f", {row['manual']} in words" if row["manual"] else ""
        cells = [
            f"[{title[1].removesuffix(', by hand') if title else row['name']}]({page_.name})",
            (row["chapter"] or "").split("_")[0],
        ]
        cells += [row["summary"], f"{row['parts']}{words}", f"{row['points']:g}", f"{row['hours']:g} h"]
        lines.append(f"| {' | '.join(cells)} |")
    points, hours = sum(row["points"] for row in rows), sum(row["hours"] for row in rows)
    lines.append(f"| all | | | {sum(row['parts'] for row in rows)} | {points:g} | {hours:g} h |")
    assert TABLE in text, "the page of assignments has no place for its table"
    return text.replace(TABLE, "\n".join(lines))


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
