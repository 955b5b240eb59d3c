"""A student's feedback page: for each part its points, why it did not get all of them, and the answer.

The page has no script, asks no server for anything, and shows a stranger's output as text or as an image, never as
HTML. Hidden tests are not on it: where one fails, the judge's message names a property.
"""

import base64
import binascii
import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from nbconvert.exporters import HTMLExporter

from autograder import notebook
from autograder.judging.checks import HIDDEN
from autograder.judging.results import NO_SANDBOX
from autograder.notebook import COLOUR, NOT_REACHED, Cell, Notebook, Output

STYLE = (Path(__file__).parent / "feedback.css").read_text()
# Whatever finds its way into the page: nothing is loaded, run, framed or sent.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'"
FRAME = re.compile(r"Cell In\[\d+\], line (\d+)")  # the first of a traceback is in the test cell
MOST = 5000  # characters of one output
IMAGES = ("image/png", "image/jpeg")

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p class="total">{total}</p>
{warning}
<table>
<thead><tr><th>part</th><th class="points">points</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
{sections}
</body>
</html>
"""


@dataclass
class Section:
    """What the page says of one part.

    part: it. points: None where nobody has graded it yet. said: why it has not all points. answer: the student's cells.
    comments: a grader's.
    """

    part: notebook.Part
    points: float | None
    said: str = ""
    answer: list[Cell] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        """A class of the page's style."""
        if self.points is None:
            return "open"
        if self.points >= self.part.points:
            return "full"
        return "some" if self.points > 0 else "none"


class FeedbackExporter(HTMLExporter):
    """nbconvert's, with a page of our own in the place of its template."""

    def from_notebook_node(self, nb: Notebook, resources: Any = None, **_: Any) -> tuple[str, Any]:
        """nbconvert's.

        Args:
            nb: An autograded notebook.
            resources: nbconvert's own.

        Returns:
            The page and the resources.
        """
        resources = self._init_resources(resources)
        nb, resources = self._preprocess(copy.deepcopy(nb), resources)  # GetGrades: the gradebook's points and comments
        mark_waiting(nb, resources["nbgrader"])
        return feedback_page(nb, resources), resources


def mark_waiting(nb: Notebook, about: dict[str, str]) -> None:
    """Take the points from the parts that wait for a person: nbgrader has zeros there.

    Args:
        nb: The notebook with the gradebook's points, which is changed.
        about: nbgrader's resources: db_url, notebook, assignment, student.
    """
    from nbgrader.api import Gradebook

    with Gradebook(about["db_url"]) as gradebook:
        found = gradebook.find_submission_notebook(about["notebook"], about["assignment"], about["student"])
        waiting = {grade.name for grade in found.grades if grade.needs_manual_grade}
    for cell in nb.cells:
        if notebook.grade_id(cell) in waiting:
            cell.metadata.nbgrader.score = None


def feedback_page(nb: Notebook, resources: dict[str, Any]) -> str:
    """The page.

    Args:
        nb: An autograded notebook with the gradebook's points and comments in its metadata, see nbgrader's GetGrades;
            without points where nobody has graded a part yet.
        resources: Its `nbgrader` names the notebook and has score, max_score and late_penalty.

    Returns:
        HTML.
    """
    found = list(sections(nb))
    about = resources.get("nbgrader", {})
    title = f"Feedback: {about.get('notebook') or resources.get('metadata', {}).get('name', 'assignment')}"
    rows = [
        f'<tr><td><a href="#part-{number}">{escape(s.part.title)}</a></td><td class="points">{_points(s)}</td></tr>'
        for number, s in enumerate(found, start=1)
    ]
    return PAGE.format(
        policy=POLICY,
        style=STYLE,
        title=escape(title),
        total=_total(about, found),
        warning=f'<p class="warning">{escape(NO_SANDBOX)}</p>' if _without_sandbox(nb) else "",
        rows="\n".join(rows),
        sections="\n".join(_section(number, s) for number, s in enumerate(found, start=1)),
    )


def sections(nb: Notebook) -> Iterator[Section]:
    """What there is to say of each part, in order.

    Args:
        nb: An autograded notebook.
    """
    parts = {part.id: part for part in notebook.parts(nb)}
    answer: list[Cell] = []
    for cell in nb.cells:
        name, graded = notebook.grade_id(cell), cell.metadata.get("nbgrader", {})
        own = name is None or notebook.is_solution(cell)
        if own and (cell.cell_type == "code" or notebook.is_solution(cell)):
            answer.append(cell)
        if name in parts:
            commented = [*answer, cell] if notebook.is_task(cell) else answer
            comments = [each.metadata.get("nbgrader", {}).get("comment") for each in commented]
            said = [str(comment) for comment in comments if comment]
            yield Section(parts[name], graded.get("score"), _complaint(cell), answer, said)
            answer = []


def _complaint(cell: Cell) -> str:
    """Why a part does not have its points: what its check raised, without the traceback, which quotes hidden tests."""
    errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
    if notebook.is_manual(cell):
        return ""
    if not errors:
        return _cut(notebook.said_beside_score(cell))
    text = COLOUR.sub("", str(errors[0].get("evalue", ""))).strip()
    kind = str(errors[0].get("ename", ""))
    if (hidden := _hidden(cell, errors[0])) is not None:
        return f"a hidden test fails: {hidden or 'a case that the visible checks do not have'}"
    if kind in ("AssertionError", NOT_REACHED) and text:
        return _cut(text)
    return _cut(f"{kind}: {text}" if text else f"{kind}, without a message")


def _hidden(cell: Cell, error: Output) -> str | None:
    """The property above a hidden test that failed, where nbgrader has run the tests; None where it was a visible one.

    The judge's errors have no frames: what it says of a hidden test is the property already.
    """
    frame = FRAME.search(COLOUR.sub("", "\n".join(error.get("traceback", []))))
    before = cell.source.splitlines()[: int(frame[1])] if frame else []
    if HIDDEN[0] not in before:
        return None
    properties = [line.partition(": ")[2] for line in before if line.startswith("# Property: ")]
    return properties[-1] if properties else ""


def _points(section: Section) -> str:
    got = "–" if section.points is None else f"{section.points:g}"
    return f"{got} of {section.part.points:g}"


def _total(about: dict[str, Any], found: list[Section]) -> str:
    """The sum, and what of it is still open."""
    score = about.get("score", sum(section.points or 0 for section in found))
    most = about.get("max_score", sum(section.part.points for section in found))
    text = f"<strong>{score:g} of {most:g} points</strong>"
    if penalty := about.get("late_penalty"):
        text += f" after a late penalty of {penalty:g}"
    waiting = sum(section.points is None for section in found)
    if waiting:
        text += f"; {waiting} {'part is' if waiting == 1 else 'parts are'} not graded yet"
    return text


STATES = {"full": "all points", "some": "some of the points", "none": "no points", "open": "not graded yet"}


def _section(number: int, section: Section) -> str:
    lines = [
        f'<section id="part-{number}" class="{section.state}">',
        f"<header><h2>{escape(section.part.title)}</h2>",
        f'<span class="state">{_points(section)}: {STATES[section.state]}</span></header>',
    ]
    if section.said:
        lines.append(f'<p class="said">{escape(section.said)}</p>')
    lines += [f'<p class="label">Comment</p><p class="comment">{escape(_cut(text))}</p>' for text in section.comments]
    for cell in section.answer:
        lines += list(_answer(cell))
    return "\n".join([*lines, "</section>"])


def _answer(cell: Cell) -> Iterator[str]:
    """A cell of the student's, and what it put out."""
    if not cell.source.strip():
        return
    own = notebook.grade_id(cell) is None
    yield f'<p class="label">{"A cell of your own" if own else "Your answer"}</p>'
    if cell.cell_type == "code":
        yield f"<pre>{_coloured(cell.source)}</pre>"
    else:
        yield f'<pre class="words">{escape(cell.source)}</pre>'
    shown = [text for output in cell.get("outputs", []) if (text := _output(output))]
    if shown:
        yield '<p class="label">Output</p>'
        yield from shown


def _coloured(source: str) -> str:
    """Python with marks for the style; Pygments escapes it."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).rstrip("\n")


def _output(output: Output) -> str:
    """An output as text or as an image; its HTML and its scripts are left out."""
    if output.output_type == "stream":
        return f"<pre>{_text(output.text)}</pre>"
    if output.output_type == "error":
        return f"<pre>{_text(f'{output.ename}: {output.evalue}')}</pre>"
    data = output.get("data", {})
    for kind in IMAGES:
        if kind in data and (image := _image(data[kind])):
            return f'<img alt="A figure that this cell draws." src="data:{kind};base64,{image}">'
    if "text/plain" in data:
        return f"<pre>{_text(data['text/plain'])}</pre>"
    return f"<pre>(an output of the kind {escape(', '.join(map(str, data)))}, which is not shown)</pre>" if data else ""


def _image(data: Any) -> str:
    """Base64 of an image that is written anew, so that nothing else can be in it; "" where it is none."""
    try:
        return base64.b64encode(base64.b64decode("".join(str(data).split()), validate=True)).decode()
    except (binascii.Error, ValueError):
        return ""


def _text(value: Any) -> str:
    text = "".join(map(str, value)) if isinstance(value, list) else str(value)
    return escape(_cut(COLOUR.sub("", text)))


def _cut(text: str) -> str:
    """A text of a moderate length."""
    return text if len(text) <= MOST else f"{text[:MOST]} … ({len(text):,} characters)"


def _without_sandbox(nb: Notebook) -> bool:
    """Whether `write_results` said so, in a cell of the assignment's own."""
    given = [cell for cell in nb.cells if cell.cell_type == "code" and not notebook.is_test(cell)]
    outputs = given[0].get("outputs", []) if given else []
    return any(NO_SANDBOX in str(output.get("text", "")) for output in outputs)
