#!/usr/bin/env bash
# bitsandbytes' Adam decays weights as AdamW does.
#
# Package: bitsandbytes 0.50.2, torch 2.13.0 (bitsandbytes.optim.Adam).
# Guess: `Adam(weight_decay=...)` is torch's Adam, an L2 penalty that goes through the moments; for the decoupled decay
#   there is an `AdamW`.
# Behaviour: Adam and AdamW are one update, the decoupled one, and differ in the default of weight_decay only. Who moves
#   from torch.optim.Adam to bitsandbytes.optim.Adam with a decay trains otherwise.
# Here: the chapter and the command use AdamW in 8 bits.
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


decay = {"lr": 1e-2, "weight_decay": 0.5}
adam = train(bitsandbytes.optim.Adam, **decay)
found = {name: difference(adam, train(getattr(torch.optim, name), **decay)) for name in ("Adam", "AdamW")}
print(f"bitsandbytes.optim.Adam with a weight decay differs from torch's {found}")
assert found["Adam"] > 0.01 and found["AdamW"] < 1e-5, "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
