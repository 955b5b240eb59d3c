#!/usr/bin/env bash
# `model.to(torch.bfloat16)` and from_pretrained(dtype=torch.bfloat16) give two models.
#
# Package: transformers 5.23.0, torch 2.13.0, safetensors 0.8.0 (LlamaForCausalLM).
# Guess: both hold the file's weights rounded to bfloat16, and positions are computed in float32 in either.
# Behaviour: the parameters are equal. But the frequencies of the positions are a buffer, which from_pretrained leaves
#   in float32 and `.to` and `.bfloat16()` round. The product with the position is taken in float32, of the rounded
#   frequency: between tokens 2,000 apart an angle is off by up to 0.9, between tokens 8,000 apart by 3.5. `.float()`
#   does not undo it. The buffer is not saved, so a saved folder loads right.
# Here: models are loaded in their dtype, by `dtype=`, and not cast.
set -euo pipefail
packages=(transformers==5.23.0 torch==2.13.0 safetensors==0.8.0)
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
from transformers.utils import logging

logging.disable_progress_bar()
print(*(f"{name} {version(name)}" for name in ("transformers", "torch", "safetensors")))
torch.manual_seed(0)
sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 100}
heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 8192}
LlamaForCausalLM(LlamaConfig(**sizes, **heads, initializer_range=0.1)).save_pretrained("model")
ids = torch.randint(0, 100, (1, 1500))


@torch.no_grad()
def probabilities(model):
    return model.eval()(input_ids=ids).logits[0, -500:].float().softmax(-1)


whole = LlamaForCausalLM.from_pretrained("model", dtype=torch.float32)
frequencies = whole.model.rotary_emb.inv_freq.clone()
expected = probabilities(whole)
loaded = LlamaForCausalLM.from_pretrained("model", dtype=torch.bfloat16)
cast = LlamaForCausalLM.from_pretrained("model", dtype=torch.float32).to(torch.bfloat16)
assert all(torch.equal(first, second) for first, second in zip(loaded.parameters(), cast.parameters()))
found = {}
for name, model in (("from_pretrained(dtype=bfloat16)", loaded), (".to(bfloat16)", cast)):
    off = (model.model.rotary_emb.inv_freq.float() - frequencies).abs().max().item()
    wrong = 0.5 * (probabilities(model) - expected).abs().sum(-1).mean().item()
    found[name] = off, wrong
    print(f"{name}: an angle between tokens 2,000 apart is off by up to {2000 * off:.2f}, 8,000 apart", end=" ")
    print(f"{8000 * off:.2f}; the next token's distribution is {wrong:.3f} away from float32's")
back = (cast.float().model.rotary_emb.inv_freq - frequencies).abs().max().item()
print(f"after .to(bfloat16).float(): {8000 * back:.2f} at 8,000")
(right, near), (off, far) = found.values()
assert right == 0 and near < 0.03
assert off * 8000 > 1 and back == off, "the behaviour has changed"
assert far > 3 * near, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
