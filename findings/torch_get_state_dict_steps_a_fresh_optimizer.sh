#!/usr/bin/env bash
# Reading a fresh optimiser's state for a checkpoint changes the first update that it makes afterwards.
#
# Package: torch 2.13.0.
# Guess: get_state_dict(model, optimizer) of torch.distributed.checkpoint.state_dict reads. A checkpoint before the
#   first step, such as one for comparison or a test that saving works, does not alter the run.
# Behaviour: where the optimiser has no state yet, it makes one by a step with gradients and a learning rate of zero,
#   and leaves that step behind. Weights stay, but AdamW's counter stands at 1 with empty moments, so the correction
#   of the first real update is that of the second: it is 0.74 times as long. SGD with dampening halves its first
#   update.
# Here: the course's checkpoints hold the optimiser's own tensors, and reading them leaves a fresh optimiser alone.
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
import torch
from torch.distributed.checkpoint.state_dict import get_state_dict


def first_update(kind, read, **settings):
    """The length of the first update, and AdamW's counter after it."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)
    optimizer = kind(model.parameters(), lr=1e-2, **settings)
    before = model.weight.detach().clone()
    read(model, optimizer)
    assert torch.equal(model.weight, before)
    model(torch.ones(1, 4)).square().sum().backward()
    optimizer.step()
    counter = optimizer.state[model.weight].get("step")
    return (model.weight - before).norm().item(), counter and int(counter)


def neither(model, optimizer):
    pass


def plain(model, optimizer):
    model.state_dict(), optimizer.state_dict()


print("torch", torch.__version__)
found = {}
for kind, settings in ((torch.optim.AdamW, {}), (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5})):
    found[kind.__name__] = [first_update(kind, read, **settings) for read in (neither, plain, get_state_dict)]
    (length, counter), _, (after, counter_after) = found[kind.__name__]
    print(f"{kind.__name__}: first update {length:.4f} (step {counter}), after get_state_dict {after:.4f}", end=" ")
    print(f"(step {counter_after}), {after / length:.2f} times as long")
for name, ratio in {"AdamW": 0.744, "SGD": 0.5}.items():
    nothing, by_hand, read = found[name]
    assert nothing == by_hand
    assert abs(read[0] / nothing[0] - ratio) < 0.01, "the behaviour has changed"
assert found["AdamW"][2][1] == 2, "the behaviour has changed"
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
