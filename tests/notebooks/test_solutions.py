"""The code of the solutions runs after the chapter's own cells, with the names that the chapter has defined."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOLUTION = re.compile(r'<details class="solution">.*?</details>', re.DOTALL)
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
RUN = """
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
names = {"__name__": "__main__"}
for number, file in enumerate(sorted(Path(sys.argv[1]).glob("*.py"))):
    print(file.stem, flush=True)
    exec(compile(file.read_text(encoding="utf-8"), file.stem, "exec"), names)
"""


def code_of(notebook: dict, output: Path) -> tuple[list[str], list[str]]:
    """The chapter's cells, on the smoke profile, and the solutions' code."""
    cells, solutions = [], []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            solutions += [code for found in SOLUTION.findall(source) for code in CODE.findall(found)]
            continue
        if "parameters" in cell["metadata"].get("tags", []):
            source += f"\nprofile, output_dir = 'smoke', {str(output)!r}"
        cells.append(source)
    return cells, solutions


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize(("chapter", "at_least"), [("07_preferences", 8), ("08_kv_cache", 10)])
def test_solutions_run(chapter, at_least, tmp_path):
    notebook = json.loads((ROOT / "notebooks" / f"{chapter}.ipynb").read_text(encoding="utf-8"))
    cells, solutions = code_of(notebook, tmp_path / "output")
    assert len(solutions) >= at_least
    code = tmp_path / "code"
    code.mkdir()
    for kind, sources in (("1-cell", cells), ("2-solution", solutions)):
        for number, source in enumerate(sources):
            (code / f"{kind}-{number:03}.py").write_text(source, encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", RUN, code], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
