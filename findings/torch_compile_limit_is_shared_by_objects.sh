#!/usr/bin/env bash
# Separate torch.compile calls on the same method of different objects share one limit of recompilations.
#
# Library: torch 2.13.0 on a CPU.
# Guess: each call of torch.compile returns a function with a cache of its own, so the limit of eight recompilations
#   counts for each of them: twelve objects compiled one by one, each called once, are twelve first compilations.
# Behaviour: the cache belongs to the code object, which all objects of a class have in common. With fullgraph=True the ninth
#   raises FailOnRecompileLimitHit; without it, it runs uncompiled after a warning. isolate_recompiles=True gives each
#   call its own.
# Here: a server or a benchmark that compiles a decoding step for each shape of batch in one process.
set -euo pipefail
packages=(torch==2.13.0 numpy==2.4.6)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import torch
from torch._dynamo.exc import FailOnRecompileLimitHit


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def compiled(**options):
    """How many of twelve objects can be compiled one by one and called once."""
    torch._dynamo.reset()
    for number in range(12):
        step = torch.compile(Scaled(number + 0.5).forward, dynamic=False, fullgraph=True, backend="eager", **options)
        try:
            step(torch.ones(2))
        except FailOnRecompileLimitHit as error:
            print(f"object {number + 1}: {type(error).__name__}: {str(error).splitlines()[0][:90]}")
            return number
    return 12


print("torch", torch.__version__, "limit", torch._dynamo.config.recompile_limit)
shared, isolated = compiled(), compiled(isolate_recompiles=True)
print(f"compiled one by one: {shared} of 12; with isolate_recompiles=True: {isolated} of 12")
assert isolated == 12
assert shared == 8, "the behaviour has changed"
PYTHON
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
