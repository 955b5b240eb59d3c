#!/usr/bin/env bash
# The first optimiser of a process imports torch's compiler, SymPy and the ONNX exporter.
#
# Package: torch 2.13.0.
# Guess: torch.optim.SGD([parameter]) makes some dictionaries; everything that it needs came with `import torch`.
# Behaviour: the call imports torch._dynamo for a decorator, and with it over 800 modules (SymPy, torch._inductor,
#   torch.onnx, torch.distributed …), though nothing is compiled. That takes a second or more. The second optimiser
#   imports nothing.
# Here: a command that trains pays this time at its first optimiser, after the model was loaded.
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
import sys
import time
from collections import Counter

import torch


def newly_imported():
    """The modules that one plain optimiser brings in, and the seconds that it takes."""
    before, start = set(sys.modules), time.perf_counter()
    torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    return set(sys.modules) - before, time.perf_counter() - start


print("torch", torch.__version__)
assert "torch._dynamo" not in sys.modules
first, seconds = newly_imported()
second, again = newly_imported()
print(f"the first optimiser: {len(first)} modules in {seconds:.2f} s; the second: {len(second)} in {again:.4f} s")
print(Counter(".".join(name.split(".")[:2]) for name in first).most_common(6))
assert not second
assert len(first) > 500 and {"torch._dynamo", "sympy"} <= first, "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
