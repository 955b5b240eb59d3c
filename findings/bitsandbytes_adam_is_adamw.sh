#!/usr/bin/env bash
# bitsandbytes' Adam decays weights as AdamW does, and its optimisers ignore options that they accept.
#
# Package: bitsandbytes 0.50.2, torch 2.13.0 (bitsandbytes.optim.Adam, SGD).
# Guess: `Adam(weight_decay=...)` is torch's Adam, an L2 penalty that goes through the moments; for the decoupled decay
#   there is an `AdamW`. `amsgrad`, `nesterov` and `dampening`, which are described, act or are refused.
# Behaviour: Adam and AdamW are one update, the decoupled one, and differ in the default of weight_decay only. Who moves
#   from torch.optim.Adam to bitsandbytes.optim.Adam with a decay trains otherwise. amsgrad=True, nesterov=True and a
#   dampening change nothing, in 32 bits too, and without a word.
# Here: chapter and command use AdamW in 8 bits and no such option.
set -euo pipefail
packages=(torch==2.13.0 bitsandbytes==0.50.2)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" numpy ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import bitsandbytes
import torch

print(*(f"{name} {version(name)}" for name in ("torch", "bitsandbytes")))


def train(kind, steps=20, **options):
    """A weight after some steps with the same random gradients."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(64, 64))
    optimizer = kind([weight], **options)
    for step in range(steps):
        weight.grad = torch.randn(64, 64) / (1 + step)
        optimizer.step()
    return weight.detach()


def difference(first, second):
    return ((first - second).norm() / second.norm()).item()


ours, theirs = bitsandbytes.optim, torch.optim
decay = {"lr": 1e-2, "weight_decay": 0.5}
adam = train(ours.Adam, **decay)
found = {name: difference(adam, train(getattr(theirs, name), **decay)) for name in ("Adam", "AdamW")}
print(f"bitsandbytes.optim.Adam with a weight decay differs from torch's {found}")
changed = {}
for name, plain, option in (
    ("Adam", {"lr": 1e-2, "betas": (0.9, 0.9)}, {"amsgrad": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}, {"nesterov": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}, {"dampening": 0.5}),
):
    changes = []
    for optim in (ours, theirs):
        kind = getattr(optim, name)
        changes.append(difference(train(kind, **plain, **option), train(kind, **plain)))
    changed[str(option)] = changes
    print(f"{name}, {option}: the weights change by {changes[0]:.1e} in bitsandbytes and by {changes[1]:.1e} in torch")
assert found["Adam"] > 0.01 and found["AdamW"] < 1e-5, "the behaviour has changed"
assert all(in_torch > 1e-3 for _, in_torch in changed.values())
assert all(in_bitsandbytes == 0 for in_bitsandbytes, _ in changed.values()), "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
