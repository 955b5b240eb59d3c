#!/usr/bin/env bash
# Two pages of a book with the same code show the same outputs, though each reads its own data.
#
# Package: jupyter-cache 1.0.1, myst-nb 1.4.0, sphinx 7.4.7, ipykernel 7.4.0.
# Guess: the cache keeps the outputs of each notebook. One with the code of another, in a folder with other data, is
#   run.
# Behaviour: the key is the code and the kernel; neither the notebook's path nor its folder is part of it. The second
#   page of a build is taken for the first one, is not run, and shows the first one's numbers under its own text,
#   without a warning. nb_execution_mode = "force" runs both.
# Here: the course runs its chapters with papermill before the book is built; the book's pages are not run from a
#   cache.
set -euo pipefail
packages=(jupyter-cache==1.0.1 myst-nb==1.4.0 sphinx==7.4.7 ipykernel==7.4.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import nbformat

RAINFALL = {"north": "rainfall 111", "south": "rainfall 222"}
new = nbformat.v4


def page(folder):
    """A notebook that shows the file of its own folder; its text differs, its code does not."""
    Path("book", folder).mkdir(parents=True)
    Path("book", folder, "rainfall.txt").write_text(RAINFALL[folder])
    cells = [new.new_markdown_cell(f"# The {folder}"), new.new_code_cell("print(open('rainfall.txt').read())")]
    notebook = new.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, Path("book", folder, "page.ipynb"))


def build(mode):
    """What the two pages say of the rainfall after a build from the beginning."""
    options = ["-D", f"nb_execution_mode={mode}", "-D", f"nb_execution_cache_path={Path(mode).absolute()}.cache"]
    subprocess.run([sys.executable, "-m", "sphinx", "-q", *options, "book", mode], check=True)
    return {name: re.findall(r"rainfall \d+", Path(mode, name, "page.html").read_text()) for name in RAINFALL}


print(*(f"{name} {version(name)}" for name in ("jupyter-cache", "myst-nb", "sphinx", "ipykernel")))
for folder in RAINFALL:
    page(folder)
Path("book", "conf.py").write_text('extensions = ["myst_nb"]\n')
Path("book", "index.md").write_text("# Weather\n\n```{toctree}\nnorth/page\nsouth/page\n```\n")
found = {mode: build(mode) for mode in ("force", "cache")}
print(found)
assert found["force"] == {name: [text] for name, text in RAINFALL.items()}
assert found["cache"]["north"] == found["cache"]["south"] == ["rainfall 111"], "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
