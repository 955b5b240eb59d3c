#!/usr/bin/env bash
# For math-verify all very small numbers are the same number, and their negatives, too.
#
# Package: math-verify 0.9.0.
# Guess: two numbers are equal if they agree to six significant digits or so.
# Behaviour: two decimals are rounded to float_rounding=6 places behind the point, and of two numbers with a power of
#   ten the difference is cut off if it is below about 1e-16. So a p-value of 2e-7 is one of 4e-7, and the mass of the
#   electron in kg is a right answer where Planck's constant is asked for, as is its own negative. Large numbers, on the
#   other hand, are compared to the last digit. Only float_rounding=40 and numeric_precision=40 together tell all apart.
# Here: the course's answers are whole numbers, compared by the course itself. TRL's accuracy_reward uses the defaults.
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
planck, electron = r"$6.626 \times 10^{-34}$", r"$9.109 \times 10^{-31}$"
pairs = [
    (planck, electron),
    (electron, electron.replace("9.109", "-9.109")),
    ("$0.0000004$", "$0.0000002$"),
    ("$0.004$", "$0.002$"),
    ("$1234567.1$", "$1234567.2$"),
]
found = []
for gold, answer in pairs:
    found.append(verify(parse(gold), parse(answer)))
    fine = verify(parse(gold), parse(answer), float_rounding=40, numeric_precision=40)
    print(f"asked for {gold}, answered {answer}: {found[-1]}; with both options at 40: {fine}")
    assert not fine
assert found[3:] == [False, False]
assert found[:3] == [True, True, True], "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
