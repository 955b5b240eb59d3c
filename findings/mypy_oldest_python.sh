#!/usr/bin/env bash
# mypy 2.4.1 with numpy 2.5.5: the target version 3.11 makes methods of arrays lose an overload.
#
# Guess: python_version = "3.11" in mypy's settings, the oldest Python that a project supports, is the careful choice.
# Behaviour: numpy 2.5 supports Python 3.12 and newer only, and its stubs import typing.override, which 3.11 lacks. mypy
# reports nothing about the stubs, drops the overloads decorated with the unknown name, and then refuses correct code:
#   error: All overload variants of "argmax" of "ndarray" require at least one argument
# With 3.12 as the target the same line is right.
# Here: pyproject.toml sets no python_version, so that each Python checks for itself.
set -euo pipefail
packages=(mypy==2.4.1 numpy==2.5.5)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
pip() { "$folder/env/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }
site=$("$folder/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
pip install "${packages[0]}" || could_not_run "pip could not install ${packages[0]}"
# mypy only reads the stubs, so that numpy for another Python than this one will do.
pip download --dest "$folder" --no-deps --only-binary=:all: --python-version 3.12 "${packages[1]}" ||
  could_not_run "pip could not download ${packages[1]}"
python3 -m zipfile --extract "$folder"/numpy-*.whl "$site"
"$folder/env/bin/mypy" --version
ls "$site" | grep '^numpy-'

printf 'import numpy as np\n\nprint(np.zeros(3).argmax())\n' > "$folder/right.py"
check() { (cd "$folder" && env/bin/mypy --no-incremental --python-version "$1" right.py) || true; }
oldest=$(check 3.11)
newer=$(check 3.12)
printf 'target 3.11: %s\ntarget 3.12: %s\n' "$oldest" "$newer"

if grep -q 'All overload variants of "argmax"' <<< "$oldest" && grep -q '^Success' <<< "$newer"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
