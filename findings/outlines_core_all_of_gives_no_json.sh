#!/usr/bin/env bash
# outlines-core puts the parts of allOf one behind the other: what it lets a model write is no JSON.
#
# Package: outlines-core 0.2.14 (build_regex_from_schema).
# Guess: a value under allOf fulfils all of the schemas, or allOf is refused as too hard for a regular expression.
# Behaviour: the regular expressions of the parts are joined. allOf of "a string" and "a string of at most three
#   characters" allows "ab""ab" and no single string: every output fails to parse, and no valid answer can be written.
#   With one part, as pydantic writes it, nothing shows. Nothing is raised.
# Here: a constrained model gives an answer that can never be right, and it looks as if the model were too weak for the
#   format.
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
text, short = {"type": "string"}, {"type": "string", "maxLength": 3}


def allowed(schema, *answers):
    """Which of the answers the schema's regular expression lets a model write."""
    pattern = build_regex_from_schema(json.dumps(schema))
    found = [answer for answer in answers if re.fullmatch(pattern, answer)]
    print(f"{json.dumps(schema)}: allows {found} of {list(answers)}")
    return found


one, two = '"ab"', '"ab""ab"'
assert allowed(short, one, two) == [one]
assert allowed({"allOf": [short]}, one, two) == [one]
found = allowed({"allOf": [text, short]}, one, two)
for answer in found:
    try:
        json.loads(answer)
        raise AssertionError("the behaviour has changed")
    except json.JSONDecodeError as error:
        print(f"  json.loads({answer}): {error}")
assert found == [two], "the behaviour has changed"
in_object = {"type": "object", "properties": {"name": {"allOf": [text, short]}}, "required": ["name"]}
assert allowed(in_object, '{"name": "ab"}', '{"name": "ab""ab"}') == ['{"name": "ab""ab"}'], "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
