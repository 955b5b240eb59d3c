"""Every name of ours that a notebook or a solution imports exists: the chapters themselves take minutes to say so."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted([*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("autograder/source/*/*.ipynb")])


def pieces(path):
    """The code cells, and the Python in the text."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        yield from [source] if cell["cell_type"] == "code" else re.findall(r"```python\n(.*?)```", source, re.DOTALL)


def names_of_ours(path):
    """(module, name) of each `from course_lib... import ...`."""
    for code in pieces(path):
        try:
            tree = ast.parse(code)
        except SyntaxError:  # a line of a shell, or a piece with gaps to fill
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("course_lib", "autograder"):
                yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_imported_exists(path):
    found = set(names_of_ours(path))
    assert found or path.parent.name != "notebooks"
    for module, name in sorted(found):
        if not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}")
