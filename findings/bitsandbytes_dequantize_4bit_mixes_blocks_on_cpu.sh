#!/usr/bin/env bash
# On a CPU with AVX-512, bitsandbytes dequantises with another block's constant where a block does not end with a row.
#
# Library: bitsandbytes 0.50.2 with torch 2.13.0, functional.quantize_4bit and functional.dequantize_4bit.
# Guess: blocks run on through the flattened weight, so that the shape changes neither what is stored nor what comes back.
# Behaviour: what is stored is the same for every shape. What comes back is not: where the width is a multiple of 16 and
#   not of the block size, entries are multiplied by another block's constant. A (32, 576) weight comes back right in
#   blocks of 64 (relative error 0.09) and wrong in blocks of 128 (0.21); flattened to rows of 128, it is right (0.10).
#   Nothing is raised, and float32, float16 and bfloat16 behave alike. A processor without AVX-512 runs other code.
# Here: a comparison of block sizes on SmolLM2, whose rows have 576 entries, would measure this and not the rounding.
set -euo pipefail
packages=(torch==2.13.0 bitsandbytes==0.50.2)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

grep -q avx512f /proc/cpuinfo || could_not_run "this processor has no AVX-512"
python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import logging

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

logging.disable(logging.WARNING)
print("bitsandbytes", bnb.__version__, "torch", torch.__version__, torch.backends.cpu.get_cpu_capability())
weight = torch.randn(32, 576, generator=torch.Generator().manual_seed(0))


def error(shape, block_size):
    """Relative error of the weight in this shape after both directions, and what was stored."""
    packed, state = quantize_4bit(weight.reshape(shape), blocksize=block_size, quant_type="nf4")
    back = dequantize_4bit(packed, state).reshape(weight.shape)
    return ((back - weight).norm() / weight.norm()).item(), packed


for block_size in (64, 128, 256):
    by_rows, stored = error((32, 576), block_size)
    flat, stored_flat = error((-1, block_size), block_size)
    print(f"blocks of {block_size}: error {by_rows:.3f} in rows of 576, {flat:.3f} in rows of {block_size}")
    assert torch.equal(stored, stored_flat), "what is stored depends on the shape now"
    assert flat < 0.12
    assert (by_rows > 1.5 * flat) == (block_size != 64), "dequantising looks at the shape in another way now"
PYTHON
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
