#!/usr/bin/env bash
# A notebook that leaves in the middle by sys.exit(0) is a success for papermill, though its second half never ran.
#
# Package: papermill 2.7.0, with nbclient 0.11.0 and ipykernel 7.4.0.
# Guess: a notebook has passed when all of its cells ran. One that stops before its end is an error, as in nbclient.
# Behaviour: papermill exits with 0. The cell's status is "failed", and that of all cells after it "pending".
# Here: `course run` looks at the statuses and fails such a chapter.
set -euo pipefail
packages=(papermill==2.7.0 nbclient==0.11.0 ipykernel==7.4.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import subprocess
import sys
from importlib.metadata import version

import nbformat

print("papermill", version("papermill"))
new = nbformat.v4
notebook = new.new_notebook(cells=[new.new_code_cell(source) for source in ("import sys", "sys.exit(0)", "print(1 / 0)")])
notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
nbformat.write(notebook, "in.ipynb")
done = subprocess.run([sys.executable, "-m", "papermill", "--no-progress-bar", "in.ipynb", "out.ipynb"])
statuses = [cell.metadata.papermill.status for cell in nbformat.read("out.ipynb", as_version=4).cells]
print("exit status", done.returncode, statuses)
assert done.returncode == 0 and statuses == ["completed", "failed", "pending"], "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
