#!/usr/bin/env bash
# set_epoch reorders the files of a stream that was never shuffled, and accelerate calls it.
#
# Package: datasets 5.2.0, with torch 2.13.0 and accelerate 1.15.0.
# Guess: set_epoch changes the seed of a shuffle(). A stream without one keeps its order.
# Behaviour: in each epoch but the first the order of the files is drawn from the epoch's number, shuffle or not. A
#   loader that accelerate has prepared counts its passes and calls set_epoch, so a second evaluation of the same
#   loader sees the rows in another order.
# Here: the course reads no streams of datasets. Elsewhere, predictions of two passes cannot be compared line by line,
#   and a curriculum of easy files first is one for a single epoch only.
set -euo pipefail
packages=(datasets==5.2.0 torch==2.13.0 accelerate==1.15.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" numpy ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import json
from importlib.metadata import version
from pathlib import Path

from accelerate import Accelerator
from datasets import disable_progress_bars, load_dataset
from torch.utils.data import DataLoader

disable_progress_bars()
print(*(f"{name} {version(name)}" for name in ("datasets", "torch", "accelerate")))
files = []
for number in range(8):
    files.append(f"part_{number}.jsonl")
    Path(files[-1]).write_text("".join(json.dumps({"row": 10 * number + line}) + "\n" for line in range(10)))


def stream():
    return load_dataset("json", data_files=files, split="train", streaming=True)


def order(rows):
    """The files in the order in which their rows come."""
    return list(dict.fromkeys(int(row) // 10 for row in rows))


by_hand = stream()
found = []
for epoch in range(3):
    by_hand.set_epoch(epoch)
    found.append(order(row["row"] for row in by_hand))
print("set_epoch(0), (1) and (2), files in order:", *found)

loader = Accelerator(cpu=True).prepare(DataLoader(stream(), batch_size=10))
passes = [order(row for batch in loader for row in batch["row"]) for _ in range(3)]
print("three passes over a prepared loader, files in order:", *passes)
assert found[0] == passes[0] == list(range(8))
assert sorted(found[1]) == sorted(passes[1]) == list(range(8))
assert found[1:] == passes[1:], "the behaviour has changed"
assert found[1] != found[0], "the behaviour has changed"
PYTHON
cd "$folder"
export HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" HF_DATASETS_CACHE="$folder/cache/datasets"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
