#!/usr/bin/env bash
# A UTC offset in a submission's timestamp.txt counts as seconds: "+0200" moves a deadline by 200 seconds.
#
# Package: nbgrader 0.9.6, nbgrader.utils.parse_utc, which reads the timestamp of every submission.
# Guess: "2024-01-02 03:04:05 +0200" is 01:04:05 in UTC, two hours earlier.
# Behaviour: it becomes 03:00:45, 200 seconds earlier. The offset is read as a number of seconds.
# Here: late penalties depend on this time. `course grade` reads such times itself and notes them.
set -euo pipefail
packages=(nbgrader==0.9.6)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

from nbgrader.utils import parse_utc

print("nbgrader", version("nbgrader"))
for text in ("2024-01-02 03:04:05 UTC", "2024-01-02 03:04:05 +0200"):
    print(f"{text} -> {parse_utc(text)}")
assert str(parse_utc("2024-01-02 03:04:05 UTC")).endswith("03:04:05")
assert str(parse_utc("2024-01-02 03:04:05 +0200")).endswith("03:00:45"), "the behaviour has changed"
PYTHON
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
