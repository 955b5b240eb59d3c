#!/usr/bin/env bash
# gather_for_metrics cuts the last batch's values to the number of its rows, on a single process, too.
#
# Package: accelerate 1.15.0, with torch 2.13.0.
# Guess: it gathers, and on several processes drops the rows that were repeated to fill the last batch; on one process
#   there are none, and what goes in comes out.
# Behaviour: in the last batch the first axis of every tensor is cut to len(dataset) % batch_size, whatever it counts.
#   Values that are not one a row, such as one a token or several samples a prompt, lose their tail: 26 of 30 come back
#   here. Where the batch size divides the data set, all come back.
# Here: a token-weighted loss of an evaluation is then off by an amount that depends on the batch size.
set -euo pipefail
packages=(accelerate==1.15.0 torch==2.13.0)
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
from accelerate import Accelerator
from torch.utils.data import DataLoader

print(*(f"{name} {version(name)}" for name in ("accelerate", "torch")))
accelerator = Accelerator(cpu=True)
print("processes:", accelerator.num_processes)


def values_back(batch_size):
    """Of three values for each of ten rows, how many come back."""
    loader = accelerator.prepare(DataLoader(torch.arange(10), batch_size=batch_size))
    sizes = []
    for rows in loader:
        tokens = rows.repeat_interleave(3)  # (B,) -> (3 B,)
        sizes.append((len(tokens), len(accelerator.gather_for_metrics(tokens))))
    print(f"batches of {batch_size}: (given, back) {sizes}")
    return sum(back for _, back in sizes)


assert accelerator.num_processes == 1
assert values_back(5) == 30
assert values_back(4) == 26, "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
