"""The checks of a part, read from its test cell: statements that are run one by one, with what a failed one is about.

A test cell is ordinary Python, which nbgrader too can run. Its comments say more to the judge:

    # Hint: divide by the root of the head's width
    # Property: wrong when there are fewer key heads than query heads

A hint goes with the visible checks below it. A property stands above the hidden tests of which it tells, and is all
that a student learns of them.

A cell may give its points property by property (`autograder.checks.Points`). The judge runs the statements in the
blocks one by one as well, and itself counts what is lost.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any

HIDDEN = ("### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS")
NOTE = re.compile(r"^ *# (Hint|Property): (.*(?:\n *#  .*)*)", re.M)
POINTS = "_points"  # the name that a cell gives to its `Points`


@dataclass(frozen=True)
class Check:
    """One statement of a test cell, what is said of it where it fails, and the property that it then costs.

    property: its name in the cell's `Points`; "" where the whole part is lost.
    """

    code: CodeType
    hidden: bool
    note: str
    property: str = ""


@lru_cache(maxsize=256)  # a class of three hundred has the same cells
def checks(name: str, source: str) -> tuple[Check, ...]:
    """The statements of a test cell, in order.

    Args:
        name: The cell's name, for tracebacks.
        source: The cell, with hidden tests or without.

    Returns:
        Each statement with what is said where it fails.
    """
    lines = source.splitlines()
    begin, end = (lines.index(mark) + 1 if mark in lines else len(lines) + 1 for mark in HIDDEN)
    notes, found = list(_notes(source)), []
    for node, about in _statements(source):
        hidden = begin < node.lineno < end
        wanted = "Property" if hidden else "Hint"
        said = [text for line, kind, text in notes if line < node.lineno and kind == wanted]
        code = compile(ast.Module([node], []), f"<{name}>", "exec")
        found.append(Check(code, hidden, said[-1] if said else "", about))
    return tuple(found)


@lru_cache(maxsize=256)
def worth(source: str) -> dict[str, float]:
    """The points of a cell's properties, by their names; empty where it does not tell them apart.

    Args:
        source: The test cell.
    """
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _id(node.targets[0]) == POINTS:
            return {str(each.arg): float(ast.literal_eval(each.value)) for each in node.value.keywords}
    return {}


def _statements(source: str) -> Iterator[tuple[ast.stmt, str]]:
    """The statements with the property to which they belong; the blocks are taken apart."""
    for node in ast.parse(source).body:
        block = node.items[0].context_expr if isinstance(node, ast.With) else None
        last = node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
        if isinstance(block, ast.Call) and _id(block.func) == POINTS:
            assert isinstance(node, ast.With)
            yield from ((inner, ast.literal_eval(block.args[0])) for inner in node.body)
        elif not (isinstance(last, ast.Attribute) and _id(last.value) == POINTS):  # the judge counts itself
            yield node, ""


def _id(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _notes(source: str) -> Iterator[tuple[int, str, str]]:
    """Line, kind and text of each note. It may go on in lines that are indented more."""
    for found in NOTE.finditer(source):
        text = " ".join(line.lstrip("# ") for line in found[2].splitlines())
        yield source.count("\n", 0, found.start()) + 1, found[1], text


@lru_cache(maxsize=256)
def forbidden(source: str) -> frozenset[str]:
    """What a part's answers may not use: the texts in the calls of `check_own(answer, "name", ...)`.

    Args:
        source: The test cell.
    """
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    own = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "check_own"]
    constants = [argument.value for call in own for argument in call.args if isinstance(argument, ast.Constant)]
    return frozenset(map(str, constants))


@lru_cache(maxsize=256)
def asked_for(source: str) -> frozenset[str]:
    """The names that a cell reads and does not set itself.

    Args:
        source: The test cell.
    """
    names = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)]
    return frozenset(node.id for node in names if isinstance(node.ctx, ast.Load))


def imports(sources: Iterable[str]) -> str:
    """The import statements at the top level of some cells.

    Args:
        sources: The cells.
    """
    return "\n".join(line for source in sources for line in _imports(source))


@lru_cache(maxsize=256)
def _imports(source: str) -> tuple[str, ...]:
    nodes = ast.parse(source).body
    return tuple(ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))


@lru_cache(maxsize=256)
def functions(source: str) -> set[str]:
    """The names of a cell's functions.

    Args:
        source: One of the assignment's own cells.
    """
    return {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


@lru_cache(maxsize=256)
def functions_of(source: str) -> str:
    """A cell's functions, without the rest of it.

    Args:
        source: One of the assignment's own cells.
    """
    return "\n".join(ast.unparse(node) for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))


MOST_READ = 300_000  # characters that IPython may read for a cell, all its passes together: about a second


@lru_cache
def _transformer() -> Any:
    """IPython's way to rewrite a cell, with an end: it reads the cell anew for each magic command, up to 500 times, in
    our process and outside of the submission's time."""
    from IPython.core.inputtransformer2 import TransformerManager

    class Bounded(TransformerManager):
        def do_token_transforms(self, lines: list[str]) -> list[str]:
            left, changed = max(MOST_READ, 5 * sum(map(len, lines))), True
            while changed:
                left -= sum(map(len, lines))
                if left < 0:
                    raise ValueError("too many magic commands")
                changed, lines = self.do_one_token_transform(lines)
            return lines

    return Bounded()


@lru_cache(maxsize=256)  # each part has the cells of all parts above it
def as_python(source: str) -> str:
    """A cell as Python, without IPython's magic commands.

    Args:
        source: The cell.
    """
    try:
        ast.parse(source)
        return source
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        if not any(line.lstrip().startswith(("%", "!")) for line in source.splitlines()):
            return source
    try:
        return _transformer().transform_cell(source)
    except Exception:  # whatever it makes of odd text: the cell then fails there
        return source
