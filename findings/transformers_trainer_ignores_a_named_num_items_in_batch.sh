#!/usr/bin/env bash
# transformers' Trainer does not hand num_items_in_batch to a model that asks for it by name.
#
# Package: transformers 5.23.0, torch 2.13.0, accelerate 1.15.0 (Trainer with gradient accumulation).
# Guess: a forward(x, labels, num_items_in_batch=None) gets the number of targets of the whole step, as transformers'
#   own models do, so that a token weighs the same in each micro-batch.
# Behaviour: only a forward with **kwargs gets it. With the argument named, it is always None, without a warning, and
#   Trainer averages the means of the micro-batches: a token of a short micro-batch weighs more.
# Here: the course's decoder has that argument. Chapter 02 shows what a mean of means costs.
set -euo pipefail
packages=(transformers==5.23.0 torch==2.13.0 accelerate==1.15.0)
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
from transformers import Trainer, TrainingArguments


class Named(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.given = []

    def forward(self, x, labels, num_items_in_batch=None):
        self.given.append(num_items_in_batch)
        return {"loss": (self.weight * x).sum()}


class Open(Named):
    def forward(self, x, labels, **others):
        self.given.append(others.get("num_items_in_batch"))
        return {"loss": (self.weight * x).sum()}


print(*(f"{name} {version(name)}" for name in ("transformers", "torch", "accelerate")))
given = {}
for kind in (Named, Open):
    model = kind()
    arguments = TrainingArguments(
        "out", max_steps=1, per_device_train_batch_size=1, gradient_accumulation_steps=2, use_cpu=True,
        report_to="none", disable_tqdm=True, save_strategy="no", logging_strategy="no",
    )
    Trainer(model, arguments, train_dataset=[{"x": [1.0, 2.0], "labels": [1, 1]}] * 2).train()
    given[kind.__name__] = [None if number is None else int(number) for number in model.given]
print("num_items_in_batch, forward(..., num_items_in_batch=None):", given["Named"])
print("num_items_in_batch, forward(..., **others):", given["Open"])
assert given["Open"] == [4, 4]
assert given["Named"] == [None, None], "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
