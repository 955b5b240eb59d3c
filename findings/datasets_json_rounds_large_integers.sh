#!/usr/bin/env bash
# load_dataset("json") turns integers from 2**63 on into floats, so different identifiers become the same.
#
# Package: datasets 5.2.0, with pyarrow 26.0.1, whose JSON reader it uses.
# Guess: an unsigned 64-bit integer, such as a hash, is read as uint64, or is refused; JSON's integers have no limit.
# Behaviour: a single value of 2**63 or more makes its column float64, without a word. Half of all 64-bit hashes are so
#   large; a column of them keeps 53 bits of each, small ones included, and neighbours become equal. Asking for uint64
#   by features= does not help: the rounded floats are cast to it, and look exact.
# Here: the course's rows carry hashes as text.
set -euo pipefail
packages=(datasets==5.2.0 pyarrow==26.0.1)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import json
from importlib.metadata import version
from pathlib import Path

from datasets import Features, Value, disable_progress_bars, load_dataset

disable_progress_bars()
print(*(f"{name} {version(name)}" for name in ("datasets", "pyarrow")))
numbers = [2**53 + 1, 2**62 + 1, 2**62 + 2, 2**63 + 1, 2**63 + 2]


def read(values, **options):
    name = f"rows_{len(values)}.jsonl"
    Path(name).write_text("".join(json.dumps({"id": value}) + "\n" for value in values))
    data = load_dataset("json", data_files=name, split="train", **options)
    print(f"{data.features['id'].dtype}: {len(set(values))} different integers are {len(set(data['id']))}", *data["id"])
    return list(data["id"])


assert read(numbers[:3]) == numbers[:3]
by_itself, as_asked = read(numbers), read(numbers, features=Features({"id": Value("uint64")}))
assert isinstance(by_itself[0], float), "the behaviour has changed"
assert len(set(by_itself)) == 3, "the behaviour has changed"
assert len(set(as_asked)) == 3, "the behaviour has changed"
PYTHON
cd "$folder"
export HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" HF_DATASETS_CACHE="$folder/cache/datasets"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
