#!/usr/bin/env bash
# Q8_0 is worse than Q4_0 for weights of 3e-6.
#
# Package: gguf 0.19.0, numpy 2.4.6 (gguf.quants).
# Guess: quantising by blocks does not depend on the weights' size, and eight bits are sixteen times as exact as four.
# Behaviour: each block's scale is stored in float16. Q8_0 divides the largest weight by 127 and Q4_0 by 8, so Q8_0's
#   scale reaches float16's subnormal numbers first: when a block's largest weight is below 0.008, its scale loses bits.
#   Normal weights of 1e-5 have an error of 9 % in Q8_0 and in Q4_0. Those of 3e-6 have one of 21 % in Q8_0 and of 9 %
#   in Q4_0, and of those of 1e-6 nothing is left in Q8_0.
# Here: a LoRA's B starts at zero. After a few steps with a small learning rate its file in GGUF should be F16 or F32.
set -euo pipefail
packages=(gguf==0.19.0 numpy==2.4.6)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

print(*(f"{name} {version(name)}" for name in ("gguf", "numpy")))
weights = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)


def error(size, kind):
    kind = GGMLQuantizationType[kind]
    scaled = weights * np.float32(size)
    return float(np.linalg.norm(dequantize(quantize(scaled, kind), kind) - scaled) / np.linalg.norm(scaled))


sizes = (1, 1e-3, 1e-4, 1e-5, 3e-6, 1e-6)
found = {size: (error(size, "Q8_0"), error(size, "Q4_0")) for size in sizes}
for size, (eight, four) in found.items():
    print(f"weights of {size:g}: error {eight:.4f} in Q8_0, {four:.4f} in Q4_0")
assert found[1][0] < 0.006 and 0.08 < found[1][1] < 0.09
assert found[1e-4][0] > 0.01, "the behaviour has changed"
assert found[3e-6][0] > 2 * found[3e-6][1], "the behaviour has changed"
assert found[1e-6][0] > 0.9, "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
