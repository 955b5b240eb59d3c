#!/usr/bin/env bash
# A stream's take(n) and skip(n) share rows if they are read with different numbers of workers or in different epochs.
#
# Package: datasets 5.2.0, with torch 2.13.0.
# Guess: what take(100) gives is what skip(100) leaves out, as the documentation of streaming says: shuffle first, then
#   split the stream by take and skip.
# Behaviour: each worker takes or skips its part of n, from its own files: with two workers skip(100) leaves out 50 rows
#   of each of two files, where take(100) without workers has 100 of the first one. set_epoch, which Trainer and
#   accelerate call on the training stream before each epoch, draws the shuffling anew inside skip, so that other rows
#   are left out. Either way rows that were held out are trained on, and nothing is said.
# Here: the course splits by the hash of a text. In other projects: split into files, or by a hash in filter().
set -euo pipefail
packages=(datasets==5.2.0 torch==2.13.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

from datasets import IterableDataset, disable_progress_bars
from torch.utils.data import DataLoader

disable_progress_bars()
print(*(f"{name} {version(name)}" for name in ("datasets", "torch")))


def rows(files):
    for file in files:
        for number in range(100):
            yield {"row": 100 * file + number}


def read(stream, workers=0):
    return {int(row["row"]) for row in DataLoader(stream, batch_size=None, num_workers=workers)}


def common(held_out, training, what):
    print(f"{what}: {len(held_out)} rows held out, {len(training)} trained on, {len(held_out & training)} of them both")
    return len(held_out & training)


if __name__ == "__main__":
    stream = IterableDataset.from_generator(rows, gen_kwargs={"files": [0, 1, 2, 3]})
    held_out, training = stream.take(100), stream.skip(100)
    by_workers = [common(read(held_out), read(training, workers), f"{workers} workers") for workers in (0, 2)]

    shuffled = stream.shuffle(seed=0, buffer_size=100)
    held_out, training = shuffled.take(100), shuffled.skip(100)
    by_epoch = []
    for epoch in range(3):
        training.set_epoch(epoch)
        by_epoch.append(common(read(held_out), read(training), f"shuffled before, epoch {epoch}"))
    assert by_workers[0] == by_epoch[0] == 0
    assert by_workers[1] == 50, "the behaviour has changed"
    assert 20 < by_epoch[1] < 50, "the behaviour has changed"
    assert 20 < by_epoch[2] < 50, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
