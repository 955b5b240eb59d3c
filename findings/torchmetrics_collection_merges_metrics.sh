#!/usr/bin/env bash
# A MetricCollection gives two metrics one value for good if their states agree after the first batch.
#
# Package: torchmetrics 1.9.0, with torch 2.13.0.
# Guess: each metric of a collection is computed with its own arguments; only what is the same work is shared.
# Behaviour: after the first update, metrics whose states are equal become one group, of which only the first is
#   updated. The arguments are not looked at. Perplexity(ignore_index=0) beside Perplexity() is never computed if the
#   first batch has no padding, and an accuracy with the threshold 0.9 is that with 0.5 if the first batch is clear.
# Here: the course does not use torchmetrics. compute_groups=False switches it off.
set -euo pipefail
packages=(torchmetrics==1.9.0 torch==2.13.0)
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
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy
from torchmetrics.text import Perplexity

print(*(f"{name} {version(name)}" for name in ("torchmetrics", "torch")))


def values(make, batches, **options):
    collection = MetricCollection(make(), **options)
    for batch in batches:
        collection.update(*batch)
    return {name: round(value.item(), 4) for name, value in collection.compute().items()}


def perplexities():
    return {"all tokens": Perplexity(), "without padding": Perplexity(ignore_index=0)}


def accuracies():
    return {"over half": BinaryAccuracy(threshold=0.5), "over nine tenths": BinaryAccuracy(threshold=0.9)}


generator = torch.Generator().manual_seed(0)
logits = torch.randn(2, 4, 6, 10, generator=generator)
full = torch.randint(1, 10, (4, 6), generator=generator)
padded = full.clone()
padded[:, 2:] = 0
ones = torch.ones(4, dtype=torch.long)
clear, doubtful = torch.tensor([0.95, 0.99, 0.1, 0.92]), torch.tensor([0.6, 0.7, 0.8, 0.2])
cases = {
    "perplexity": (perplexities, [(logits[0], full), (logits[1], padded)]),
    "accuracy": (accuracies, [(clear, ones), (doubtful, ones)]),
}
for what, (make, batches) in cases.items():
    alone, together = values(make, batches, compute_groups=False), values(make, batches)
    print(f"{what}: {alone} without groups, {together} as it is by default")
    first, second = alone.values()
    assert first != second
    assert list(together.values()) == [first, first], "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
