#!/usr/bin/env bash
# With double quantisation, rows of small weights come back from four bits several times too large.
#
# Package: bitsandbytes 0.50.2, torch 2.13.0 (quantize_4bit with compress_statistics=True, as QLoRA uses it).
# Guess: quantising the blocks' constants to 8 bits costs next to nothing, in each block: a four-bit error of 9 % stays
#   one of 9 %, whatever the size of the block's weights.
# Behaviour: the constants' mean is subtracted before they are quantised, so a small constant is the difference of two
#   large numbers, with an error of some thousandths of them. A row with weights of a hundredth of its neighbours' has
#   an error of a half, and one with a thousandth comes back seven times as large. Without double quantisation both have
#   9 %.
# Here: the course's own double quantisation takes the same two steps. A layer with such rows, nearly pruned ones for
#   instance, is quantised without it.
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

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

print(*(f"{name} {version(name)}" for name in ("torch", "bitsandbytes")))
torch.manual_seed(0)
weight = 0.02 * torch.randn(256, 256)
found = {}
for scale in (1.0, 0.1, 0.01, 0.001):
    scaled = weight.clone()
    scaled[::16] *= scale  # every sixteenth row
    small = scaled[::16]
    for double in (False, True):
        packed, state = quantize_4bit(scaled, quant_type="nf4", compress_statistics=double)
        back = dequantize_4bit(packed, state)[::16]
        found[scale, double] = ((back - small).norm() / small.norm()).item(), (back.norm() / small.norm()).item()
    (plain, _), (error, size) = found[scale, False], found[scale, True]
    print(f"rows of {scale} times their neighbours' size: error {plain:.3f},", end=" ")
    print(f"with double quantisation {error:.3f} ({size:.2f} times their size)")
assert all(0.08 < found[scale, False][0] < 0.11 for scale in (1.0, 0.1, 0.01, 0.001))
assert found[1.0, True][0] < 0.11
assert 0.3 < found[0.01, True][0] < 0.8, "the behaviour has changed"
assert 4 < found[0.001, True][1] < 12, "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
