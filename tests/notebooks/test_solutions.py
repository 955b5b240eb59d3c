"""The solutions of a chapter's exercises run after the chapter, on the smoke profile."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
# By chapter, how the ids of cells begin that take long and that no solution needs. A name that one does need is missed
# at once: the solution fails with a NameError.
LEFT_OUT = {
    "90_lora_laboratory": (),
    "91_butterflies": (),
    "06_sft": ("record-", "trl", "judge-both", "side-", "curve-", "no-end", "on-padding", "mismatch", "contaminated")
    + ("tiny", "appends", "cuts", "averages"),
    "07_preferences": (),
    "08_kv_cache": (),
    "09_cluster": (),
}


def solutions(notebook) -> list[str]:
    """The Python of each solution, in the order of the exercises."""
    folded = re.compile(r'<details class="solution">(.*?)</details>', re.S)
    texts = [found for cell in notebook.cells if cell.cell_type == "markdown" for found in folded.findall(cell.source)]
    return ["\n".join(re.findall(r"```python\n(.*?)```", text, re.S)) for text in texts]


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("chapter", LEFT_OUT)
def test_every_solution_runs(chapter, tmp_path):
    notebook = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4)
    needed = [cell for cell in notebook.cells if not cell.id.startswith(LEFT_OUT[chapter])]
    cells = [cell.source for cell in needed if cell.cell_type == "code"]
    found = solutions(notebook)
    assert len(found) >= {"90_lora_laboratory": 3, "91_butterflies": 1}.get(chapter, 8)
    done = [f"{code}\nprint('solved', {number})" for number, code in enumerate(found, start=1)]
    cells.insert(0, "from IPython.display import display")  # which a notebook has without an import
    text = "\n\n".join([*cells, *done]).replace('profile = "cpu"', 'profile = "smoke"', 1)
    script = tmp_path / "chapter.py"
    script.write_text(text, encoding="utf-8")
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": paths, "MPLBACKEND": "Agg"}
    command = [sys.executable, "-W", "ignore", str(script)]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1500)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert [line for line in ran.stdout.splitlines() if line.startswith("solved")] == [
        f"solved {number}" for number in range(1, len(found) + 1)
    ]
