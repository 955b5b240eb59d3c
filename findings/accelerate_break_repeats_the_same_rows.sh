#!/usr/bin/env bash
# With a seedable sampler, an epoch that is left by break is followed by one of the same rows in the same order.
#
# Package: accelerate 1.15.0, with torch 2.13.0.
# Guess: each walk over a shuffled loader draws a new order, whatever became of the walk before.
# Behaviour: use_seedable_sampler=True draws the order from a seed plus a count of the walks that reached their end. A
#   loop of N steps an epoch that breaks gets the first N batches of one and the same order in each epoch, and never
#   sees the rest. Without the option the order is a new one each time. Streams of datasets, whose set_epoch gets the
#   same count, repeat theirs, too.
# Here: the course's loop does not use accelerate. Trainer turns the option on, and calls set_epoch(epoch) before each
#   epoch, which cures it.
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
from accelerate import Accelerator, DataLoaderConfiguration
from torch.utils.data import DataLoader

print(*(f"{name} {version(name)}" for name in ("accelerate", "torch")))


def rows_seen(seedable, leave):
    """The rows of four batches of each of five epochs, left by break or walked to their end."""
    torch.manual_seed(0)
    settings = DataLoaderConfiguration(use_seedable_sampler=seedable)
    loader = DataLoader(range(40), batch_size=2, shuffle=True)
    loader = Accelerator(cpu=True, dataloader_config=settings).prepare(loader)
    epochs = []
    for _ in range(5):
        epochs.append([])
        for number, batch in enumerate(loader):
            if number < 4:
                epochs[-1].extend(batch.tolist())
            elif leave:
                break
    return epochs


different = {}
for seedable in (False, True):
    for leave in (False, True):
        epochs = rows_seen(seedable, leave)
        different[seedable, leave] = len(set(map(tuple, epochs)))
        print(
            f"use_seedable_sampler={seedable}, {'left by break' if leave else 'walked to the end'}: five epochs have"
            f" {different[seedable, leave]} orders and {len(set(sum(epochs, [])))} of 40 rows in their first batches"
        )
assert different[False, True] == different[False, False] == different[True, False] == 5
assert different[True, True] == 1, "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
