#!/usr/bin/env bash
# optimi's Kahan summation covers the gradient's step and not the weight decay: in bfloat16 nothing decays.
#
# Package: torch-optimi 0.3.3, torch 2.13.0 (optimi.AdamW), with packaging 26.3, which it imports.
# Guess: with Kahan summation, which optimi turns on for bfloat16, training in pure bfloat16 follows float32's, its
#   weight decay included.
# Behaviour: the weights are multiplied by 1 - lr * weight_decay in bfloat16, before the compensated sum. A factor above
#   0.998 rounds every weight back to what it was. With lr 1e-3 and a decay of 0.1 a weight of 1 is 0.82 after 2,000
#   steps in float32, and still 1 in bfloat16; the gradients' steps, which are as small, are kept.
# Here: the course keeps float32 weights where it decays them.
set -euo pipefail
packages=(torch-optimi==0.3.3 torch==2.13.0 packaging==26.3)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" numpy ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import optimi
import torch

print(*(f"{name} {version(name)}" for name in ("torch-optimi", "torch", "packaging")))


def train(dtype, gradient, **options):
    weight = torch.nn.Parameter(torch.ones(64, dtype=dtype))
    optimizer = optimi.AdamW([weight], **options)
    for _ in range(2000):
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
    assert dtype == torch.float32 or optimizer.param_groups[0]["kahan_sum"]
    return weight[0].item()


found = {}
for dtype in (torch.float32, torch.bfloat16):
    steps = train(dtype, 1.0, lr=1e-4, weight_decay=0.0)
    decay = train(dtype, 0.0, lr=1e-3, weight_decay=0.1)
    found[dtype] = steps, decay
    print(f"{dtype}: a weight of 1 after 2,000 steps of 1e-4 is {steps:.3f}, after 2,000 decays by 1e-4 {decay:.3f}")
(steps, decay), (low_steps, low_decay) = found[torch.float32], found[torch.bfloat16]
assert abs(steps - 0.8) < 0.01 and abs(decay - 0.819) < 0.01
assert abs(low_steps - steps) < 0.01
assert low_decay == 1.0, "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
