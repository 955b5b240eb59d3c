#!/usr/bin/env bash
# After a change to a module, Dataset.map gives the results of the old code from its cache.
#
# Package: datasets 5.2.0.
# Guess: the cache's key holds a hash of the function that is mapped, so changed code is run again, wherever it
#   stands.
# Behaviour: the hash is made from a pickle, and what can be imported is pickled as a name. A function or a method of
#   a module keeps its key when its body changes, also when a lambda of the script calls it: a new process reads the
#   old rows from the disk, without a word. Changes in the script itself are noticed, a global variable and an
#   attribute too.
# Here: the course maps no datasets. In other projects load_from_cache_file=False, or a new new_fingerprint, helps.
set -euo pipefail
packages=(datasets==5.2.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

SCRIPT = """
import datasets
import preparation

datasets.disable_progress_bars()
rows = datasets.load_dataset("json", data_files="rows.jsonl", split="train")
CONSTANT = {constant}
of_the_module = rows.map(preparation.label)[0]["label"]
through_a_lambda = rows.map(lambda row: preparation.label(row))[0]["label"]
of_the_script = rows.map(lambda row: {{"label": CONSTANT}})[0]["label"]
print(of_the_module, through_a_lambda, of_the_script)
"""


def labels(version):
    """What three calls of map give in a new process, when the code says `version`."""
    Path("preparation.py").write_text(f"def label(row):\n    return {{'label': {version}}}\n")
    command = [sys.executable, "-B", "-W", "ignore", "-c", SCRIPT.format(constant=version)]
    environment = os.environ | {"HF_DATASETS_CACHE": str(Path("cache").absolute()), "PYTHONPATH": "."}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.split()


print("datasets", version("datasets"))
Path("rows.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
found = [labels(1), labels(2)]
for number, row in enumerate(found, 1):
    print(f"the code says {number}; a function of a module, called by a lambda, of the script: {row}")
assert found[0] == ["1", "1", "1"]
assert found[1][2] == "2"
assert found[1][:2] == ["1", "1"], "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
