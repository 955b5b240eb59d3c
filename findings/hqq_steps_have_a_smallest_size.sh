#!/usr/bin/env bash
# HQQ in 8 bits is as bad as in 4 for weights of 1e-4, and keeps nothing of weights of 1e-5.
#
# Package: hqq 0.2.8.post1, with torch 2.13.0 and transformers 5.23.0 (HQQLinear on a CPU, float32).
# Guess: a group's scale follows its weights, so the relative error does not depend on their size: about 0.5 % in 8 bits
#   and 9 % in 4.
# Behaviour: the inverse of the scale is clamped at 20,000 "to avoid half-precision problems", in float32 too, so that a
#   step is never smaller than 5e-5: normal weights of 1e-3 have an error of 1.4 % in 8 bits, those of 1e-4 one of 14 %
#   in 8 bits and in 4. A group that spans less than 1e-4 gets a step of 1: weights of 1e-5 come back as one number.
# Here: a layer of small weights is multiplied by a constant before it is quantised, and its output divided by it.
set -euo pipefail
packages=(hqq==0.2.8.post1 torch==2.13.0 transformers==5.23.0)
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
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

print(*(f"{name} {version(name)}" for name in ("hqq", "torch", "transformers")))


def error(size, bits):
    torch.manual_seed(0)
    layer = torch.nn.Linear(256, 256, bias=False)
    torch.nn.init.normal_(layer.weight, std=size)
    weight = layer.weight.detach().clone()
    settings = BaseQuantizeConfig(nbits=bits, group_size=64, axis=1)
    back = HQQLinear(layer, settings, compute_dtype=torch.float32, device="cpu").dequantize()
    return ((back - weight).norm() / weight.norm()).item()


found = {(size, bits): error(size, bits) for size in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5) for bits in (8, 4)}
for (size, bits), wrong in found.items():
    print(f"weights of {size:g} in {bits} bits: error {wrong:.4f}")
assert found[1e-2, 8] < 0.006 and found[1e-2, 4] < 0.1
assert found[1e-3, 8] > 0.01, "the behaviour has changed"
assert found[1e-4, 8] > 0.1, "the behaviour has changed"
assert abs(found[1e-4, 8] - found[1e-4, 4]) < 0.02, "the behaviour has changed"
assert found[1e-5, 8] > 0.9 and found[1e-5, 4] > 0.9, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
