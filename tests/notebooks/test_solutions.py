"""The solutions of a chapter's exercises run after the chapter, as a reader would run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
SOLUTION = re.compile(r'<details class="solution">.*?</details>', re.DOTALL)
CODE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def solutions_of(notebook) -> list[list[str]]:
    """The Python code of each solution."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return [CODE.findall(solution) for solution in SOLUTION.findall(text)]


def script(notebook, out: Path) -> str:
    """The chapter on the smoke profile, then its solutions, each after a line with its number."""
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            own = "parameters" in cell.metadata.get("tags", [])
            parts.append(f"profile, seed, output_dir = 'smoke', 0, {str(out)!r}" if own else cell.source)
    for number, blocks in enumerate(solutions_of(notebook), 1):
        parts += [f"print('solution {number}')", *blocks]
    return "\n\n".join(parts)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("chapter", ["07_preferences"])
def test_the_solutions_run(chapter, tmp_path):
    notebook = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4)
    solutions = solutions_of(notebook)
    assert len(solutions) >= 8
    assert sum(map(bool, solutions)) >= 6
    path = tmp_path / "chapter.py"
    path.write_text(script(notebook, tmp_path), encoding="utf-8")
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert f"solution {len(solutions)}" in done.stdout
