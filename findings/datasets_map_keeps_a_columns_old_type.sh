#!/usr/bin/env bash
# What map writes into an existing column is cast to the column's old type: labels become True, "007" becomes 7.
#
# Package: datasets 5.2.0 (Dataset.map).
# Guess: a mapped column has the type of what the function returned; a string stays a string and a number a number.
# Behaviour: the old type is tried first, and pyarrow casts where it can. Integers in a column of booleans are all
#   True, and so are scores such as 0.25; strings of digits in a column of integers are integers again, without their
#   zeros. Only where the cast is impossible is the new type taken, so that it depends on the values of the first
#   batch. A new column name, or features=, cures it.
# Here: a boolean label that is replaced by a grade, or an id that is padded, is lost without a word.
set -euo pipefail
packages=(datasets==5.2.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" numpy ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

from datasets import Dataset, disable_progress_bars

disable_progress_bars()
print("datasets", version("datasets"))
rows = Dataset.from_dict({"label": [True, False, True, False], "id": [3, 5, 7, 11], "grade": [0, 1, 2, 3]})


def mapped(column, function):
    """What the column holds after map, and its type."""
    result = rows.map(lambda row: {column: function(row)})
    print(f"  {column} -> {result[column][:]} ({result.features[column].dtype})")
    return result[column][:]


print("before:")
for name in rows.column_names:
    print(f"  {name} {rows[name][:]} ({rows.features[name].dtype})")
print("a grade of 0 to 3 into a column of booleans:")
grades = mapped("label", lambda row: row["grade"])
print("a score of 0.0 to 0.75 into it:")
scores = mapped("label", lambda row: row["grade"] / 4)
print("an id padded with zeros into a column of integers:")
ids = mapped("id", lambda row: f"{row['id']:03}")
print("the same into new columns:")
assert mapped("level", lambda row: row["grade"]) == [0, 1, 2, 3]
assert mapped("code", lambda row: f"{row['id']:03}") == ["003", "005", "007", "011"]
assert grades == [False, True, True, True], "the behaviour has changed"
assert scores == [False, True, True, True], "the behaviour has changed"
assert ids == [3, 5, 7, 11], "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
