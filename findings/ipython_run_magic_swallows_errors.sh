#!/usr/bin/env bash
# A cell whose `%run script.py` ends with an exception is a success, and the notebook goes on.
#
# Package: ipython 9.18.1, with nbclient 0.11.0 and ipykernel 7.4.0.
# Guess: an exception of the script is an exception of the cell, as with `exec` or an import: it stops "Run all".
# Behaviour: the traceback is shown, the cell's reply says "ok", and all later cells run. nbclient reports a success.
# Here: the first cell of Colab's copies imports what it runs, so that a failed installation stops the notebook.
set -euo pipefail
packages=(ipython==9.18.1 nbclient==0.11.0 ipykernel==7.4.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version
from pathlib import Path

import nbclient
import nbformat

print("ipython", version("ipython"))
Path("broken.py").write_text("raise RuntimeError('no')\n")
ends = {}
for source in ("%run broken.py", "exec(open('broken.py').read())"):
    cells = [nbformat.v4.new_code_cell(text) for text in (source, "after = 1")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    try:
        nbclient.NotebookClient(notebook, kernel_name="python3").execute()
        ends[source] = "completed"
    except nbclient.exceptions.CellExecutionError:
        ends[source] = "stopped"
    print(source, "->", ends[source], [output.output_type for output in notebook.cells[0].outputs])
assert list(ends.values()) == ["completed", "stopped"], "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
