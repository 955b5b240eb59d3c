#!/usr/bin/env bash
# load_state_dict(assign=True) unties tied weights, but lets them share their numbers: AdamW updates these twice.
#
# Package: torch 2.13.0 (Module.load_state_dict with assign=True, as for a model made on the meta device).
# Guess: a model whose output matrix is its embedding is tied after loading, too; or it has two matrices of its own,
#   and then twice the memory shows it.
# Behaviour: each name gets a new Parameter around the state's tensor. The two are different parameters that share one
#   memory. They stay equal, the forward pass and the file look tied, and no memory is added; yet each has its own
#   gradient, its own moments and its own weight decay, and both updates go into the same numbers. With copying
#   (assign=False) there is one. With SGD both give the same.
# Here: it is how large models are loaded without being initialised first. Trained on, their embeddings move by other
#   steps than those of a model that was copied into.
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
import io

import torch
from torch import nn

print("torch", torch.__version__)


class Tied(nn.Module):
    """A language model without its middle: the output matrix is the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.embedding(tokens)))


torch.manual_seed(0)
file = io.BytesIO()
torch.save(Tied().state_dict(), file)


def loaded(assign):
    file.seek(0)
    with torch.device("meta" if assign else "cpu"):
        model = Tied()
    model.load_state_dict(torch.load(file), assign=assign)
    return model


def train(model, kind, **settings):
    """Ten steps; the distance that the embedding has gone."""
    before = model.embedding.weight.detach().clone()
    optimizer = kind(model.parameters(), **settings)
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        tokens, targets = torch.randint(16, (2, 32), generator=generator)
        nn.functional.cross_entropy(model(tokens), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    return (model.embedding.weight - before).norm().item()


copied, assigned = loaded(assign=False), loaded(assign=True)
shared = assigned.embedding.weight.data_ptr() == assigned.head.weight.data_ptr()
print("copied:   parameters", len(list(copied.parameters())), "tied", copied.head.weight is copied.embedding.weight)
tied = assigned.head.weight is assigned.embedding.weight
print("assigned: parameters", len(list(assigned.parameters())), "tied", tied, "same memory", shared)
adam = [train(model, torch.optim.AdamW, lr=1e-2) for model in (copied, assigned)]
print(f"AdamW moves the embedding by {adam[0]:.3f} (copied) and {adam[1]:.3f} (assigned)")
sgd = [train(loaded(assign), torch.optim.SGD, lr=1e-1) for assign in (False, True)]
print(f"SGD moves it by {sgd[0]:.3f} and {sgd[1]:.3f}")
assert copied.head.weight is copied.embedding.weight
assert not tied, "the behaviour has changed"
assert shared, "the behaviour has changed"
assert torch.equal(assigned.head.weight, assigned.embedding.weight)
assert adam[1] > 1.2 * adam[0], "the behaviour has changed"
assert abs(sgd[1] - sgd[0]) < 1e-4
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
