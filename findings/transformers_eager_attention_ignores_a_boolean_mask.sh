#!/usr/bin/env bash
# With eager attention a boolean mask of four axes hides nothing, not even the tokens ahead.
#
# Package: transformers 5.23.0, torch 2.13.0 (Llama, attention_mask of the shape (batch, 1, time, time)).
# Guess: True means that a query may see a key, whichever implementation of attention computes it.
# Behaviour: "sdpa" reads it so. "eager" adds the mask to the scores: True is 1 and False is 0, so that every token sees
#   every other one, a little more of those it may see. In a row packed with two documents the second one sees the first,
#   and each token sees the future: a training loss looks better than it is. There is no error and no warning.
# Here: packed rows have such masks. The course turns them into numbers for models that do not use sdpa, and a test
#   holds packed rows against the documents alone.
set -euo pipefail
packages=(transformers==5.23.0 torch==2.13.0)
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
from transformers import LlamaConfig, LlamaForCausalLM

print(*(f"{name} {version(name)}" for name in ("transformers", "torch")))
torch.manual_seed(0)
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 100}
model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4)).eval()
ids = torch.arange(1, 6)[None]  # a document of three tokens, and one of two
mask = torch.tril(torch.ones(5, 5, dtype=torch.bool))[None, None].clone()
mask[..., 3:, :3] = False
other_first, other_last = ids.clone(), ids.clone()
other_first[0, 0], other_last[0, 2] = 50, 50


@torch.no_grad()
def logits(tokens):
    return model(tokens, attention_mask=mask).logits[0]


found = {}
for kind in ("sdpa", "eager"):
    model.set_attn_implementation(kind)
    whole = logits(ids)
    across = (whole[3:] - logits(other_first)[3:]).abs().max().item()
    ahead = (whole[:2] - logits(other_last)[:2]).abs().max().item()
    found[kind] = (across, ahead)
    print(f"{kind:5} another first document moves the second one's logits by {across:.3f}")
    print(f"{kind:5} another third token moves the first two tokens' logits by {ahead:.3f}")
assert max(found["sdpa"]) < 1e-5
assert min(found["eager"]) > 0.01, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
