#!/usr/bin/env bash
# torch.linspace gives other numbers on a processor without AVX2.
#
# Package: torch 2.13.0 (on x86, where ATEN_CPU_CAPABILITY lets a newer processor take the older one's code).
# Guess: linspace is a formula without a sum, so that each element is the same on every processor.
# Behaviour: the vectorised code rounds otherwise than the plain one. Of 65 points between 0.1 and 1 some differ in their
#   last bit. A table that is built from them, such as bitsandbytes' 8-bit map, is another one on another processor.
# Here: levels are compared with bitsandbytes bit for bit, so that the course derives NF4's without linspace, and the 8-bit
#   map with the very call that bitsandbytes makes.
set -euo pipefail
packages=(torch==2.13.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" numpy ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import json
import os
import subprocess
import sys

import torch

if len(sys.argv) > 1:
    print(json.dumps([torch.backends.cpu.get_cpu_capability(), torch.linspace(0.1, 1, 65).double().tolist()]))
    sys.exit()

print("torch", torch.__version__)
if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
    print("could not run: this processor has no AVX2, so that there is nothing to compare")
    sys.exit(2)
found = {}
for wanted in ("default", "avx2"):
    environment = os.environ | {"ATEN_CPU_CAPABILITY": wanted}
    command = [sys.executable, __file__, "child"]
    capability, points = json.loads(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)
    found[capability] = points
    print(f"{capability:8} sum of 65 points: {sum(points)!r}")
different = sum(a != b for a, b in zip(found["DEFAULT"], found["AVX2"], strict=True))
print(f"{different} of 65 points differ")
assert 0 < different < 65, "the behaviour has changed"
PYTHON
cd "$folder"
status=0
"$folder/env/bin/python" -W ignore "$folder/check.py" || status=$?
case $status in
  0) echo "as stated" ;;
  2) exit 2 ;;
  *) echo "changed"; exit 1 ;;
esac
