#!/usr/bin/env bash
# to_empty() takes a tied model from the meta device apart: it has two matrices afterwards.
#
# Package: torch 2.13.0 (Module.to_empty after torch.device("meta")).
# Guess: a model whose output matrix is its embedding stays so when its memory is allocated, as with .to(), .half() and
#   deepcopy.
# Behaviour: each module gets new parameters of its own. The model takes the memory of both matrices, load_state_dict
#   fills both with the same numbers, so that nothing shows, and training moves them apart.
# Here: this is the documented way to allocate a sharded model; what was tied trains as another model and is saved with
#   a head that a tied configuration ignores.
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
import copy

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


def tied(model):
    return model.head.weight is model.embedding.weight


torch.manual_seed(0)
first = Tied()
with torch.device("meta"):
    model = Tied()
print("on the meta device: tied", tied(model))
assert tied(model)
model.to_empty(device="cpu")
print("after to_empty:     tied", tied(model), "with", sum(p.numel() for p in model.parameters()), "numbers")
model.load_state_dict(first.state_dict())
tokens = torch.arange(16)
print("after loading:      outputs equal to the tied model's:", torch.equal(model(tokens), first(tokens)))
assert torch.equal(model(tokens), first(tokens))
for each in (first, model):
    optimizer = torch.optim.SGD(each.parameters(), lr=1.0)
    nn.functional.cross_entropy(each(tokens), tokens.flip(0)).backward()
    optimizer.step()
apart = (model(tokens) - first(tokens)).abs().max().item()
print(f"after one step:     outputs differ by {apart:.3f}, embedding and head by", end=" ")
print(f"{(model.embedding.weight - model.head.weight).abs().max():.3f}")
for name, other in (("bfloat16", copy.deepcopy(first).bfloat16()), ("deepcopy", copy.deepcopy(first))):
    print(f"{name}: tied", tied(other))
    assert tied(other)
assert not tied(model), "the behaviour has changed"
assert apart > 0.01
PYTHON
cd "$folder"
if "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
