#!/usr/bin/env bash
# torch's counter of operations does not see scaled_dot_product_attention on a CPU.
#
# Library: torch 2.13.0, torch.utils.flop_counter.FlopCounterMode.
# Guess: the counter knows the attention kernels, as it does on a GPU, so a model counts the same on either device and
#   with either way to write attention.
# Behaviour: on a CPU the fused kernel (aten::_scaled_dot_product_flash_attention_for_cpu) is not in its table and counts
#   as nothing, without a warning. Written out as two products, the same attention has 4 B H T T D operations. With long
#   rows that is most of a small model.
# Here: utilisation (MFU) that is computed from counted operations, and tests of formulas against the counter.
set -euo pipefail
packages=(torch==2.13.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

print("torch", torch.__version__)
B, H, T, D = 2, 4, 256, 32
q, k, v = torch.randn(3, B, H, T, D)
with FlopCounterMode(display=False) as fused:
    one = F.scaled_dot_product_attention(q, k, v)
with FlopCounterMode(display=False) as written_out:
    other = (q @ k.mT / D**0.5).softmax(-1) @ v
assert torch.allclose(one, other, atol=1e-5)
print(f"fused {fused.get_total_flops():,}, written out {written_out.get_total_flops():,}, 4 B H T T D {4 * B * H * T * T * D:,}")
assert written_out.get_total_flops() == 4 * B * H * T * T * D
assert fused.get_total_flops() == 0, "the behaviour has changed"
PYTHON
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
