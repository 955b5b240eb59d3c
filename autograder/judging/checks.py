"""The checks of a part, read from its test cell: statements that are run one by one, with what a failed one is about.

A test cell is ordinary Python, which nbgrader too can run. Its comments say more to the judge:

    # Hint: divide by the root of the head's width
    # Property: wrong when there are fewer key heads than query heads

A hint goes with the visible checks below it. A property stands above the hidden tests of which it tells, and is all
that a student learns of them.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

HIDDEN = ("### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS")
NOTE = re.compile(r"^# (Hint|Property): (.*(?:\n#  .*)*)", re.M)


@dataclass(frozen=True)
class Check:
    """One statement of a test cell, and what is said of it where it fails."""

    code: CodeType
    hidden: bool
    note: str


def checks(name: str, source: str) -> Iterator[Check]:
    """The statements of a test cell, in order.

    Args:
        name: The cell's name, for tracebacks.
        source: The cell, with hidden tests or without.
    """
    lines = source.splitlines()
    begin, end = (lines.index(mark) + 1 if mark in lines else len(lines) + 1 for mark in HIDDEN)
    notes = list(_notes(source))
    for node in ast.parse(source).body:
        hidden = begin < node.lineno < end
        wanted = "Property" if hidden else "Hint"
        said = [text for line, kind, text in notes if line < node.lineno and kind == wanted]
        code = compile(ast.Module([node], []), f"<{name}>", "exec")
        yield Check(code, hidden, said[-1] if said else "")


def _notes(source: str) -> Iterator[tuple[int, str, str]]:
    """Line, kind and text of each note. It may go on in lines that are indented more."""
    for found in NOTE.finditer(source):
        text = " ".join(line.lstrip("# ") for line in found[2].splitlines())
        yield source.count("\n", 0, found.start()) + 1, found[1], text


def forbidden(source: str) -> frozenset[str]:
    """What a part's answers may not use: the texts in the calls of `check_own(answer, "name", ...)`.

    Args:
        source: The test cell.
    """
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    own = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "check_own"]
    constants = [argument.value for call in own for argument in call.args if isinstance(argument, ast.Constant)]
    return frozenset(map(str, constants))


def asked_for(source: str) -> set[str]:
    """The names that a cell reads and does not set itself.

    Args:
        source: The test cell.
    """
    names = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]
    return {node.id for node in names if isinstance(node.ctx, ast.Load)}
