#!/usr/bin/env bash
# A zero comes back from bitsandbytes' 8-bit blocks as another number on a CPU.
#
# Package: bitsandbytes 0.50.2, torch 2.13.0 (quantize_blockwise, dequantize_blockwise).
# Guess: a number that the 8-bit map contains comes back exactly, zero above all: the map has a code for it.
# Behaviour: on a CPU the code is looked up on a grid of 65,536 points between -1 and 1, which is coarser than the map near
#   zero. A zero becomes 2.1e-5 of the block's largest value, and so do six other values of the map; ten of the 256 come
#   back as another one.
#   AdamW8bit keeps its moments so: weights whose gradient is always zero move, by 1.5 % of what the others move.
# Here: an embedding's row of a token that does not occur has zero gradients, and it would drift. The course trains with
#   moments in float32. Double quantisation of 4-bit weights uses this map for its constants, too.
set -euo pipefail
packages=(bitsandbytes==0.50.2 torch==2.13.0)
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
from bitsandbytes import functional

print(*(f"{name} {version(name)}" for name in ("bitsandbytes", "torch")))
values = functional.create_dynamic_map().sort().values
block = torch.zeros(256)
block[0] = 1.0  # the block's largest value, so that the rest is looked up as it is
block[1:255] = values[1:255]
codes, state = functional.quantize_blockwise(block, blocksize=256)
back = functional.dequantize_blockwise(codes, state)
wrong = back != block
print(f"{wrong.sum().item()} of 256 values of the map come back as another one:")
for before, after in sorted(set(zip(block[wrong].tolist(), back[wrong].tolist()))):
    print(f"  {before:12.4e} -> {after:12.4e}")

torch.manual_seed(0)
moved = {}
for optimizer in (bitsandbytes.optim.AdamW8bit, bitsandbytes.optim.AdamW32bit):
    weight = torch.nn.Parameter(torch.ones(8192))
    steps = optimizer([weight], lr=1e-3, weight_decay=0.0)
    for _ in range(20):
        weight.grad = torch.randn(8192)
        weight.grad[1::2] = 0.0
        steps.step()
    change = (weight.detach() - 1).abs()
    moved[optimizer.__name__] = change[1::2].max().item()
    print(f"{optimizer.__name__}: with a gradient moved by {change[::2].mean():.1e}, without one {change[1::2].max():.1e}")
assert 0.0 in values.tolist()
assert moved["AdamW32bit"] == 0.0
assert moved["AdamW8bit"] > 1e-5, "the behaviour has changed"
assert back[block == 0].abs().min() > 1e-5, "the behaviour has changed"
assert 5 <= wrong.sum() <= 20, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
