#!/usr/bin/env bash
# math-verify reads 12\,345 as 357, 2 1/2 as 1 and 1e-05 as 1.
#
# Package: math-verify 0.9.0.
# Guess: a number in a usual spelling is read as that number, or is not read at all and the pair counts as unparsed.
# Behaviour: between dollars, groups of digits with LaTeX's thin space between them are added like a mixed number or
#   multiplied: $12\,345$ is 357 and $1\,000\,000$ is 0. Without dollars "2 1/2" is 2 times 1/2, and the exponent of
#   what Python prints for a small number is dropped: 1e-05 is 1. As a reference such a spelling makes the right answer
#   wrong and another one right.
# Here: the course's references are plain whole numbers. Elsewhere, write references without spaces and exponents, and
#   look at what parse() gives for each of them.
set -euo pipefail
packages=(math-verify==0.9.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

from math_verify import parse, verify

print("math-verify", version("math-verify"))
cases = [
    (r"$12\,345$", "$12345$", "$357$"),
    (r"$1\,000\,000$", "$1000000$", "$0$"),
    ("2 1/2", "2.5", "1"),
    (str(0.00001), "0.00001", "1"),
]
found = []
for gold, right, wrong in cases:
    found.append((verify(parse(gold), parse(right)), verify(parse(gold), parse(wrong))))
    print(f"reference {gold} is read as {parse(gold)[0]}: {right} is {found[-1][0]}, {wrong} is {found[-1][1]}")
assert verify(parse("$12,345$"), parse("$12345$"))
assert found == [(False, True)] * 4, "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
