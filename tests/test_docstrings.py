"""The house rule on docstrings, read from the sources: a public function with several arguments lists them.

The API pages show such lists ("Args:", "Returns:", "Raises:") as lists, and a paragraph as a paragraph.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("course_lib", "autograder")
NOTEBOOKS = ROOT / "autograder" / "source"  # what students read has its own form
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Example|Examples):$", re.M)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[Path]:
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(path for path in files if NOTEBOOKS not in path.parents)


def public_functions(tree: ast.Module) -> Iterator[tuple[str, Function, str]]:
    """(its name, the function, the docstring that should list its arguments) of functions, methods and classes."""
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node.name, node, ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if not isinstance(method, Function):
                    continue
                if method.name == "__init__":  # the class's docstring speaks of it
                    yield node.name, method, ast.get_docstring(node) or ""
                elif not method.name.startswith("_"):
                    yield f"{node.name}.{method.name}", method, ast.get_docstring(method) or ""


def arguments_of(function: Function) -> list[str]:
    """The names of its arguments, without self and cls and without those that are only accepted (`_`)."""
    given = function.args
    every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    names = [each.arg for each in every if each is not None]
    return [name for name in names if name not in ("self", "cls") and not name.startswith("_")]


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function without those of the functions inside it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)


def gives_a_value(function: Function) -> bool:
    decorators = {ast.unparse(each).split("(")[0].split(".")[-1] for each in function.decorator_list}
    if function.name == "__init__" or decorators & {"contextmanager", "asynccontextmanager", "overload"}:
        return False
    return function.returns is not None and ast.unparse(function.returns) not in ("None", "NoReturn")


def raises_an_error(function: Function) -> bool:
    """Whether it raises an error of the caller's making; NotImplementedError marks what a subclass defines."""
    for node in own_nodes(function):
        if isinstance(node, ast.Raise) and node.exc is not None:
            error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            if ast.unparse(error) != "NotImplementedError":
                return True
    return False


def sections_of(docstring: str) -> dict[str, str]:
    """The text of each section by its heading."""
    parts = SECTION.split(docstring)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def missing_in(function: Function, docstring: str) -> list[str]:
    """What the docstring of a function with several arguments lacks, in words."""
    names, sections = arguments_of(function), sections_of(docstring)
    if len(names) < 2:
        return []
    missing = []
    listed = re.findall(r"^    (\w+): \S", sections.get("Args", ""), re.M)
    if unlisted := [name for name in names if name not in listed]:
        missing.append(f"Args: {', '.join(unlisted)}")
    if unknown := [name for name in listed if name not in names]:
        missing.append(f"Args has {', '.join(unknown)}, and the function has not")
    if gives_a_value(function) and not sections.keys() & {"Returns", "Yields"}:
        missing.append("Returns")
    if raises_an_error(function) and "Raises" not in sections:
        missing.append("Raises")
    return missing


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_public_function_with_several_arguments_lists_them(path):
    found = []
    for name, function, docstring in public_functions(ast.parse(path.read_text(encoding="utf-8"))):
        if missing := missing_in(function, docstring):
            found.append(f"{name} (line {function.lineno}) lacks {'; '.join(missing)}")
    assert found == []


GOOD = '''
def scaled(x: float, factor: float) -> float:
    """The product.

    Args:
        x: a number.
        factor: another, with
            a second line.

    Returns:
        A number.

    Raises:
        ValueError: the factor is 0.
    """
    if factor == 0:
        raise ValueError
    return x * factor
'''


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("x: a number.\n        factor", "x, factor", "Args: x, factor"),
        ("        x: a number.\n", "", "Args: x"),
        ("x: a number.", "y: a number.", "Args has y, and the function has not"),
        ("Returns:\n", "It returns\n", "Returns"),
        ("Raises:\n", "It raises\n", "Raises"),
    ],
)
def test_the_rule_catches_an_offender(old, new, complaint):
    def complaints(source: str) -> list[str]:
        ((_, function, docstring),) = public_functions(ast.parse(source))
        return missing_in(function, docstring)

    assert complaints(GOOD) == []
    assert complaint in complaints(GOOD.replace(old, new))
