#!/usr/bin/env bash
# The gradient of a parameter that is used twice, a tied embedding for one, takes three times its size for a moment.
#
# Package: torch 2.13.0, autograd on a CPU.
# Guess: autograd adds the second gradient to the first one in place: two arrays as large as the parameter.
# Behaviour: at the end of the backward pass there are three: both gradients and their sum, and afterwards one. A
#   parameter that is used once takes one. With a 98 MB table the process grows by 295 MB and keeps 98 of them.
# Here: SmolLM2's embedding is its output layer, too: 113 MB, so that the last operation of the backward pass needs 226 MB
#   more than the gradient. The course's decoder lets both uses add to one array.
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
import re
import subprocess
import sys
from pathlib import Path

import torch
from torch.nn import functional as F


def megabytes(field):
    """VmHWM is the peak of this process, VmRSS what it has now (Linux)."""
    return int(re.search(field + r":\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def measure(uses):
    """How much the backward pass grows the process, at its peak and in the end, in sizes of the parameter."""
    torch.set_num_threads(1)
    table = torch.nn.Parameter(torch.zeros(100_000, 256))
    ids = torch.zeros(8, dtype=torch.long)
    hidden = F.embedding(ids, table)
    loss = hidden.sum() if uses == 1 else F.linear(hidden, table).sum()
    before, size = megabytes("VmRSS"), table.nbytes / 2**20
    loss.backward()
    print((megabytes("VmHWM") - before) / size, (megabytes("VmRSS") - before) / size)


if len(sys.argv) > 1:
    measure(int(sys.argv[1]))
    sys.exit()
print("torch", torch.__version__)
found = {}
for uses in (1, 2):  # a process for each, since a peak cannot be reset
    output = subprocess.run([sys.executable, __file__, str(uses)], capture_output=True, text=True, check=True).stdout
    found[uses] = [float(number) for number in output.split()]
    print(f"used {uses} times: peak {found[uses][0]:.2f} parameters, afterwards {found[uses][1]:.2f}")
assert all(0.9 < after < 1.3 for _, after in found.values()), "the behaviour has changed"
assert found[1][0] < 1.3 and 2.8 < found[2][0] < 3.4, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
