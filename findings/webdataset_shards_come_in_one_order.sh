#!/usr/bin/env bash
# webdataset shuffles the shards once: every epoch has them in the same order.
#
# Package: webdataset 1.0.2.
# Guess: shardshuffle=100 draws a new order of the shards for each epoch, as a shuffling loader does.
# Behaviour: the seed is drawn when the data set is made, and each walk makes a generator from it: the order of the
#   first epoch is that of all. shuffle(n) behind it mixes neighbours only, so with more rows than it holds the same
#   shards stay together. With detshuffle=True the order does change from epoch to epoch.
# Here: the course does not use webdataset.
set -euo pipefail
packages=(webdataset==1.0.2)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import random
from importlib.metadata import version

import webdataset

print("webdataset", version("webdataset"))
for shard in range(8):
    with webdataset.TarWriter(f"shard-{shard}.tar") as tar:
        for number in range(5):
            tar.write({"__key__": f"{shard}-{number}", "json": {"shard": shard}})


def orders(seed, **options):
    """The order of the shards in each of four epochs of one data set."""
    random.seed(seed)
    data = webdataset.WebDataset("shard-{0..7}.tar", shardshuffle=100, **options).decode()
    return [tuple(dict.fromkeys(row["json"]["shard"] for row in data)) for _ in range(4)]


by_default = [orders(seed) for seed in (0, 1)]
with_option = orders(0, detshuffle=True)
print("four epochs:", *by_default[0])
print("four epochs of another data set:", *by_default[1])
print("with detshuffle=True:", *with_option)
assert all(sorted(order) == list(range(8)) for order in by_default[0])
assert len(set(with_option)) == 4
assert by_default[0] != by_default[1]
assert [len(set(epochs)) for epochs in by_default] == [1, 1], "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
