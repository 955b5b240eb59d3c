#!/usr/bin/env bash
# quit() in a cell does not stop a notebook that is run without a browser; not even the cell.
#
# Package: ipykernel 7.4.0, nbclient 0.11.0, ipython 9.18.1.
# Guess: quit() raises SystemExit, as in Python and in a terminal: the run ends there, as it does at sys.exit(0).
# Behaviour: in a kernel quit() is another function. It raises nothing and only asks the front end to end the session,
#   and nbclient does not answer. The lines below it and all later cells run, and the notebook is a success.
# Here: the course's chapters end by an exception where something is missing, never by quit().
set -euo pipefail
packages=(ipykernel==7.4.0 nbclient==0.11.0 ipython==9.18.1)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def run(leave):
    """How the run ends, and what was printed after the call that should leave."""
    new = nbformat.v4
    sources = (f"import sys\n{leave}\nprint('same cell')", "print('next cell')")
    notebook = new.new_notebook(cells=[new.new_code_cell(source) for source in sources])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    try:
        NotebookClient(notebook, timeout=120).execute()
        ending = "success"
    except CellExecutionError as error:
        ending = error.ename
    printed = [output.text.strip() for cell in notebook.cells for output in cell.outputs if "text" in output]
    return ending, [text for text in printed if text in ("same cell", "next cell")]


print(*(f"{name} {version(name)}" for name in ("ipykernel", "nbclient", "ipython")))
found = {leave: run(leave) for leave in ("sys.exit(0)", "quit()", "exit()")}
for leave, what in found.items():
    print(leave, *what)
assert found["sys.exit(0)"] == ("SystemExit", [])
for leave in ("quit()", "exit()"):
    assert found[leave] == ("success", ["same cell", "next cell"]), "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
