#!/usr/bin/env bash
# On a CPU with AVX512, bitsandbytes dequantises a 4-bit weight wrongly where a block runs from one row into the next.
#
# Library: bitsandbytes 0.50.2 with torch 2.13.0, functional.quantize_4bit and functional.dequantize_4bit.
# Guess: blocks run over the flattened weight, as quantize_4bit lays them, so that the error of NF4 does not depend on
#   the number of columns.
# Behaviour: with a number of columns that is a multiple of 32 and none of the block size, numbers are multiplied by the
#   constants of other blocks. Where the rows differ in size, the mean error is seven or nine times as large. Nothing is
#   said. 96 columns and the default block of 64 are enough, or SmolLM2's 576 and blocks of 128.
#   Blocks of 2048 and 4096 are right, since another implementation serves them.
# Here: a comparison of block sizes by bitsandbytes alone would blame large blocks for it.
set -euo pipefail
packages=(torch==2.13.0 bitsandbytes==0.50.2)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"
capability=$("$folder/env/bin/python" -W ignore -c 'import torch; print(torch.backends.cpu.get_cpu_capability())')
[ "$capability" = AVX512 ] || could_not_run "this processor has $capability, and the kernel in question needs AVX512"

cat >"$folder/check.py" <<'PYTHON'
import logging

import bitsandbytes as bnb
import torch
from bitsandbytes import functional

logging.disable(logging.WARNING)
print("bitsandbytes", bnb.__version__, "torch", torch.__version__)
torch.manual_seed(0)


def errors(columns, block):
    """Mean absolute error of NF4 by dequantize_4bit, and by the same bytes and constants multiplied by hand."""
    weight = torch.randn(32, columns)
    weight[::2] *= 10  # every other row is larger
    packed, state = functional.quantize_4bit(weight, blocksize=block, quant_type="nf4")
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten().long()
    by_hand = state.code[codes] * state.absmax.repeat_interleave(block)[: weight.numel()]
    theirs = functional.dequantize_4bit(packed, state)
    return [(back - weight).abs().mean().item() for back in (theirs, by_hand.view_as(weight))]


for columns, block in ((128, 64), (96, 64), (576, 64), (576, 128), (576, 2048)):
    theirs, by_hand = errors(columns, block)
    print(f"{columns} columns, blocks of {block}: error {theirs:.4f}, by hand {by_hand:.4f}")
    is_right = abs(theirs - by_hand) < 1e-4
    assert is_right == (columns % block == 0 or block == 2048), "another shape is wrong now, or this one is right"
PYTHON
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
