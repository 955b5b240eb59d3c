#!/usr/bin/env bash
# On a CPU, bitsandbytes dequantises a 4-bit matrix wrongly where blocks cross from one row to the next.
#
# Library: bitsandbytes 0.50.2 with torch 2.13.0, functional.dequantize_4bit on a processor with AVX-512.
# Guess: blocks run over the flattened weight, so a matrix dequantises to the same numbers as its flattened copy,
#   whatever its width.
# Behaviour: quantize_4bit does that: codes and constants of both are equal. dequantize_4bit does not where a row is a
#   multiple of 16 wide and not a multiple of the block: a 4 x 96 matrix in blocks of 64 comes back with other
#   constants from the second row on, without an error. Linear4bit computes with such weights. A width of 100 is right,
#   and so is any width that is a multiple of the block.
# Here: SmolLM2 is 576 wide, which is a multiple of 64 and not of 128. A comparison of block sizes on a CPU shows errors
#   that are not the block's. Tests against bitsandbytes take widths that are multiples of the block.
set -euo pipefail
packages=(torch==2.13.0 bitsandbytes==0.50.2)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

grep -qs avx512f /proc/cpuinfo || could_not_run "this processor has no AVX-512, and other kernels may do better"
python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import bitsandbytes
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

print("bitsandbytes", bitsandbytes.__version__, "torch", torch.__version__)
torch.manual_seed(0)
for rows, width, block in [(4, 96, 64), (4, 576, 128), (4, 100, 64), (4, 576, 64)]:
    weight = torch.randn(rows, width)
    results = []
    for each in (weight, weight.flatten()):
        codes, state = quantize_4bit(each, blocksize=block, quant_type="nf4")
        results.append((codes.flatten(), state.absmax, dequantize_4bit(codes, state).flatten()))
    (codes, constants, matrix), (flat_codes, flat_constants, flat) = results
    assert torch.equal(codes, flat_codes) and torch.equal(constants, flat_constants)
    off = (matrix - flat).abs().max().item()
    print(f"{rows} x {width}, blocks of {block}: the matrix and its flattened copy differ by up to {off:.3f}")
    crosses = width % 16 == 0 and width % block != 0
    assert (off > 0.1) == crosses, "dequantize_4bit does something else now"
    assert torch.equal(matrix[:width], flat[:width]), "the first row is wrong too now"
PYTHON
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
