#!/usr/bin/env bash
# A second Accelerator in the process switches off the first one's gradient accumulation.
#
# Package: accelerate 1.15.0, with torch 2.13.0.
# Guess: gradient_accumulation_steps belongs to the Accelerator that it was given to; a second one for an evaluation
#   has its own.
# Behaviour: both share one state, and the later one writes it. After Accelerator(gradient_accumulation_steps=4), a
#   plain Accelerator() sets the first one's steps to 1: it updates at each of its micro-batches, and the loss, which
#   is divided by the same number, is no longer divided by four. Nothing warns; another mixed_precision would be
#   refused.
# Here: an evaluation helper that makes an Accelerator of its own changes the training around it.
set -euo pipefail
packages=(accelerate==1.15.0 torch==2.13.0)
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
from accelerate import Accelerator

print(*(f"{name} {version(name)}" for name in ("accelerate", "torch")))


def updates(accelerator, micro_batches=8):
    """How often the weight changes in eight micro-batches, and how far it goes."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model, optimizer = accelerator.prepare(model, optimizer)
    seen = [0.0]
    for _ in range(micro_batches):
        with accelerator.accumulate(model):
            accelerator.backward(-model(torch.ones(1, 1)).sum())
            optimizer.step()
            optimizer.zero_grad()
        seen.append(model.weight.item())
    return sum(before != after for before, after in zip(seen, seen[1:])), seen[-1]


first = Accelerator(cpu=True, gradient_accumulation_steps=4)
alone = first.gradient_accumulation_steps, *updates(first)
Accelerator(cpu=True)  # somebody else's
after = first.gradient_accumulation_steps, *updates(first)
for when, (steps, changes, weight) in {"alone": alone, "beside a second one": after}.items():
    print(f"the Accelerator that accumulates 4, {when}: {steps} steps, {changes} updates, weight {weight:.2f}")
assert alone == (4, 2, 2.0)
assert after == (1, 8, 8.0), "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
