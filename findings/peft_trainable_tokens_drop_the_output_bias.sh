#!/usr/bin/env bash
# trainable_token_indices drops the bias of an output layer that is tied to the embedding.
#
# Package: peft 0.21.2, transformers 5.23.0, torch 2.13.0 (BertForMaskedLM).
# Guess: an adapter that has not been trained changes nothing, whichever rows of the embedding it will train.
# Behaviour: where the output layer is tied to the embedding, its product is computed as `F.linear(x, weight)` without
#   its bias. A BERT, whose decoder has a bias for each token, gives other logits at once. Merged, it is right again, so
#   what was trained and what is merged are two models.
# Here: SmolLM2's output layer is tied and has no bias. For a model with one, compare a fresh adapter with the base.
set -euo pipefail
packages=(peft==0.21.2 transformers==5.23.0 torch==2.13.0)
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
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForMaskedLM

print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")))
torch.manual_seed(0)
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 100}
model = BertForMaskedLM(BertConfig(**sizes, num_attention_heads=4)).eval()
bias = model.cls.predictions.decoder.bias
torch.nn.init.normal_(bias)
ids = torch.arange(20)[None]


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=ids).logits


plain = logits(model)
adapted = get_peft_model(model, LoraConfig(target_modules=["query"], trainable_token_indices=[1, 2, 3]))
fresh = logits(adapted)
merged = logits(adapted.merge_and_unload())
print(f"largest change of a logit: fresh adapter {(fresh - plain).abs().max():.3f},", end=" ")
print(f"without the bias {(fresh - (plain - bias)).abs().max():.1e}, merged {(merged - plain).abs().max():.1e}")
assert torch.allclose(merged, plain, atol=1e-5)
assert (fresh - plain).abs().max() > 1, "the behaviour has changed"
assert torch.allclose(fresh, plain - bias, atol=1e-5), "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
