#!/usr/bin/env bash
# A group of parameters that is frozen by a learning rate of 0 keeps moving in Prodigy, and runs away.
#
# Package: prodigyopt 1.1.2, torch 2.13.0.
# Guess: a learning rate of 0 freezes a group, as in other optimisers, and as Prodigy's own message suggests ("Setting
#   different lr values in different parameter groups is only supported for values of 0").
# Behaviour: the update and the decay of every group take the largest learning rate of all. In a group whose rate is 0
#   only the moments stand still: it repeats its last step for ever, whatever its gradient is. A group whose rate was 0
#   from the start has no moments, but its weights decay.
# Here: a part of a model is frozen by requires_grad=False and left out of the optimiser.
set -euo pipefail
packages=(prodigyopt==1.1.2 torch==2.13.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" numpy ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import torch
from prodigyopt import Prodigy

print(*(f"{name} {version(name)}" for name in ("prodigyopt", "torch")))


def train(kind, freeze_at, **options):
    """A weight that minimises its distance to 3, when its group is frozen and 40 steps later."""
    trained, frozen = torch.nn.Parameter(torch.ones(8)), torch.nn.Parameter(torch.ones(8))
    optimizer = kind([{"params": [trained]}, {"params": [frozen]}], **options)
    for step in range(freeze_at + 40):
        if step == freeze_at:
            optimizer.param_groups[1]["lr"] = 0.0
            before = frozen[0].item()
        for weight in (trained, frozen):
            weight.grad = weight.detach() - 3
        optimizer.step()
    return before, frozen[0].item()


found = {}
for name, kind, options in (
    ("AdamW", torch.optim.AdamW, {"lr": 0.1}),
    ("Prodigy", Prodigy, {"lr": 1.0, "d0": 1e-2}),
    ("Prodigy with weight decay", Prodigy, {"lr": 1.0, "d0": 1e-2, "weight_decay": 0.1}),
):
    for freeze_at in (10, 0):
        found[name, freeze_at] = before, after = train(kind, freeze_at, **options)
        print(f"{name}, frozen after {freeze_at} steps at {before:.2f}: {after:.2f} forty steps later (3 is the goal)")
assert all(before == after for (name, _), (before, after) in found.items() if name == "AdamW")
before, after = found["Prodigy", 10]
assert abs(after - before) > 1, "the behaviour has changed"
assert found["Prodigy", 0] == (1.0, 1.0)
before, after = found["Prodigy with weight decay", 0]
assert before == 1.0 and after < 0.5, "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
