#!/usr/bin/env bash
# Two of reasoning-gym's verifiers give full marks to one and the same answer for every question.
#
# Package: reasoning-gym 0.1.25.
# Guess: a verifier that gives 1.0 has checked the answer against the question.
# Behaviour: puzzle24 asks to make 24 of four given numbers and does not look at them: any four numbers from 1 to 10
#   that make 24 will do, and so will 24.5, which is cut to an integer. game_of_life_halting compares bool(answer)
#   with bool(reference), two texts: every answer but the empty one is right, "True", "False" and "I do not know".
# Here: reinforcement learning finds such an answer and learns nothing else. The course uses neither task.
set -euo pipefail
packages=(reasoning-gym==0.1.25)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
from collections import Counter
from importlib.metadata import version

from reasoning_gym import create_dataset

print("reasoning-gym", version("reasoning-gym"))


def mean_score(task, answer):
    data = create_dataset(task, seed=42, size=50)
    return sum(data.score_answer(answer, row) for row in data) / 50


games = create_dataset("puzzle24", seed=42, size=50)
numbers = [sorted(row["metadata"]["numbers"]) for row in games]
print("puzzle24: questions with the numbers 1, 1, 3, 8:", numbers.count([1, 1, 3, 8]), "of 50")
for answer in ("8*3*1*1", "10+10+9/2", "1+1+3+8"):
    print(f"  {answer} for each question: {mean_score('puzzle24', answer):.2f}")
references = Counter(row["answer"] for row in create_dataset("game_of_life_halting", seed=42, size=50))
print("game_of_life_halting: references", dict(references))
for answer in ("True", "False", "I do not know"):
    print(f"  {answer} for each question: {mean_score('game_of_life_halting', answer):.2f}")
assert numbers.count([1, 1, 3, 8]) == 0
assert mean_score("puzzle24", "1+1+3+8") < 0.1
assert len(references) == 2
assert mean_score("puzzle24", "8*3*1*1") == 1, "the behaviour has changed"
assert mean_score("puzzle24", "10+10+9/2") == 1, "the behaviour has changed"
assert mean_score("game_of_life_halting", "True") == 1, "the behaviour has changed"
assert mean_score("game_of_life_halting", "False") == 1, "the behaviour has changed"
assert mean_score("game_of_life_halting", "I do not know") == 1, "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
