"""Says in a sentence or two why a part's checks failed: what was wrong, and where in the student's own code."""

import re

from autograder import notebook
from autograder.notebook import COLOUR, ENDED, NOT_REACHED, TOO_LONG, Cell, Notebook

FRAME = re.compile(r"^\s*Cell In\[(\d+)\], line (\d+)", re.M)
ARROW = re.compile(r"^-+> ?\d+ (.*)$", re.M)
SAID_LINE = re.compile(r" \([^()]*, line (\d+)\)$")  # a syntax error names a file that IPython made up

LOST = re.compile(r"^\w[\w ]* \(\S+ of \S+ points\): ", re.M)  # how `checks.Points` tells of a lost property


def complaint(whole: Notebook, cell: Cell, limit: float) -> str:
    """What a cell complained about, without colours and traceback; "" where it ran to its end.

    Args:
        whole: The executed notebook, whose cells a traceback names by their execution counts.
        cell: The cell in question.
        limit: Seconds after which a cell was interrupted.

    Returns:
        A sentence or two.
    """
    errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
    if not errors:
        return ""
    error, names = errors[0], {output.ename for output in errors}
    text = COLOUR.sub("", error.evalue).strip()
    if error.ename in (NOT_REACHED, ENDED):
        return text
    if TOO_LONG in names or error.ename == "KeyboardInterrupt":
        stopped = f"it took over {limit:g} seconds and was stopped{_where(whole, cell, error)}"
        return f"{stopped}: is there an endless loop?"
    if error.ename == "AssertionError" and text:
        return text
    if error.ename == "AssertionError" and (line := _failing_line(error)):
        return f"this check does not hold: `{line}`"
    if found := SAID_LINE.search(text):
        return f"{error.ename}: {text[: found.start()]} (line {found[1]} of the cell)"
    kind = f"{error.ename}: {text}" if text else error.ename
    return kind + _where(whole, cell, error) + advice(text)


def lost_points(cell: Cell) -> str:
    """What a test cell that ran to its end printed of the properties that it lost; "" where it gave all points.

    Args:
        cell: The executed cell, whose checks may be in blocks of `checks.Points`.
    """
    outputs = cell.get("outputs", [])
    said = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    first = LOST.search(said)
    return said[first.start() :].strip() if first else ""


def _where(whole: Notebook, cell: Cell, error: notebook.Output) -> str:
    """The innermost line of the student's own code in a traceback, or "" where there is none."""
    by_count = {other.execution_count: other for other in whole.cells if other.get("execution_count")}
    trace = COLOUR.sub("", "\n".join(error.traceback))
    frames = list(FRAME.finditer(trace))
    ends = [frame.start() for frame in frames[1:]] + [len(trace)]
    for frame, end in list(zip(frames, ends, strict=False))[::-1]:
        inside = by_count.get(int(frame[1]))
        if inside is None or not (notebook.is_solution(inside) or notebook.grade_id(inside) is None):
            continue
        arrow = ARROW.search(trace, frame.end(), end)
        line = arrow[1].strip() if arrow else ""
        which = "the same cell" if inside is cell else _called(inside)
        return f", in line {frame[2]} of {which}" + (f": `{line}`" if line else "")
    return ""


def _failing_line(error: notebook.Output) -> str:
    """The innermost line of a traceback, which of an assertion without a message says what was expected."""
    lines = ARROW.findall(COLOUR.sub("", "\n".join(error.traceback)))
    return lines[-1].strip() if lines else ""


def _called(cell: Cell) -> str:
    """A student's cell by name."""
    name = notebook.grade_id(cell)
    return f"your cell {name!r}" if name else "a cell of your own"


def advice(text: str) -> str:
    """What a message that puzzles beginners usually means."""
    if "NoneType" in text:
        return " (None is what a function gives back that has no `return`; `print` shows a value and returns nothing)"
    if "read-only" in text:
        return " (what your function is given is not its to change: make a new array)"
    return ""
