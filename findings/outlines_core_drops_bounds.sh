#!/usr/bin/env bash
# outlines-core drops the bounds of numbers, and a pattern beside a length, without a word.
#
# Package: outlines-core 0.2.14 (build_regex_from_schema).
# Guess: a constraint that is not supported is refused, as an unknown format is; what is accepted holds for the output.
# Behaviour: minimum, maximum, multipleOf and uniqueItems are not looked at: -4 and 900 are grades from 1 to 5. Of
#   pattern and maxLength in one schema only the length counts. An unknown format does raise.
# Here: a judge that may answer from 1 to 5 answers 10, and whoever trusts the schema averages it.
set -euo pipefail
packages=(outlines-core==0.2.14)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import json
import re
from importlib.metadata import version

from outlines_core.json_schema import build_regex_from_schema

print("outlines-core", version("outlines-core"))


def allowed(schema, *answers):
    """Which of the answers the schema's regular expression lets a model write."""
    pattern = build_regex_from_schema(json.dumps(schema))
    found = [answer for answer in answers if re.fullmatch(pattern, answer)]
    print(f"{json.dumps(schema)}: allows {found} of {list(answers)}")
    return found


grades = allowed({"type": "integer", "minimum": 1, "maximum": 5}, "3", "-4", "900")
halves = allowed({"type": "number", "multipleOf": 0.5}, "1.5", "0.3")
unique = allowed({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "[1, 2]", "[1, 1]")
capitals = {"type": "string", "pattern": "^[A-Z]+$"}
assert allowed(capitals, '"AB"', '"ab"') == ['"AB"']
both = allowed({**capitals, "maxLength": 3}, '"AB"', '"ab"', '"ABCD"')
try:
    build_regex_from_schema(json.dumps({"type": "string", "format": "hostname-or-so"}))
    raise AssertionError("an unknown format is accepted now")
except ValueError as error:
    print("an unknown format raises:", str(error)[:60])
assert grades == ["3", "-4", "900"], "the behaviour has changed"
assert halves == ["1.5", "0.3"], "the behaviour has changed"
assert unique == ["[1, 2]", "[1, 1]"], "the behaviour has changed"
assert both == ['"AB"', '"ab"'], "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
