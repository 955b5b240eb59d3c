#!/usr/bin/env bash
# An evaluation left by break makes accelerate miss the end of the epoch: its last gradients are not applied.
#
# Package: accelerate 1.15.0, with torch 2.13.0.
# Guess: what is left over at the end of an epoch is applied there (sync_with_dataloader), whether or not an evaluation
#   ran in between, and however it ended.
# Behaviour: a prepared loader signs itself off only when it is walked to its end. One that is left by break, as for
#   `if step == limit: break`, stays the active one; the training loader's end is then not seen. With ten micro-batches
#   accumulated by four, the updates come at 4, 8 and 10 of each epoch; with the break, at 4, 8 and then at 2, 6 and 10
#   of the next one. The two left-over gradients are added to the next epoch's, and the learning rate's schedule lags
#   behind.
# Here: a quick look at some batches of held-out text is what most loops do.
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


def updates(limit):
    """After which micro-batch of which epoch an update happens, with an evaluation of at most limit batches."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loaders = DataLoader(torch.ones(10, 1), batch_size=1), DataLoader(torch.ones(6, 1), batch_size=1)
    model, optimizer, training, held_out = accelerator.prepare(model, optimizer, *loaders)
    seen = []
    for epoch in (1, 2):
        for step, batch in enumerate(training, start=1):
            before = model.weight.item()
            with accelerator.accumulate(model):
                accelerator.backward(model(batch).sum())
                optimizer.step()
                optimizer.zero_grad()
            if model.weight.item() != before:
                seen.append((epoch, step))
            if step == 6:
                for number, _ in enumerate(held_out, start=1):
                    if number == limit:
                        break
    return seen


whole, cut = updates(limit=None), updates(limit=2)
print("updates (epoch, micro-batch), evaluation on all batches:", whole)
print("updates (epoch, micro-batch), evaluation left by break: ", cut)
assert whole == [(epoch, step) for epoch in (1, 2) for step in (4, 8, 10)]
assert (1, 10) not in cut, "the behaviour has changed"
assert (2, 10) not in cut or (2, 4) not in cut, "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
