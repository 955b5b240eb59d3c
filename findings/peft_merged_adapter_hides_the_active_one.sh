#!/usr/bin/env bash
# While one adapter is merged, the active one is not applied.
#
# Package: peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Guess: `merge_adapter(["first"])` puts the adapter "first" into the weights, and the active adapter "second" is
#   applied on top of them: the model is base, first and second.
# Behaviour: a layer with anything merged computes its weight alone. "second" stays active, in `active_adapters` and in
#   the count of trainable parameters, and does nothing, without a word; in layers that "first" does not have it still
#   acts. In the other order (merge_adapter, then set_adapter) PEFT warns and unmerges. A base that is computed under
#   `disable_adapter()` unmerges everything, and then "second" acts alone.
# Here: stages are trained on top of each other by merging one and unloading it, or by one adapter that goes on.
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
import warnings
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")))
torch.manual_seed(0)
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 100}
model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4))
settings = LoraConfig(target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False)
ids = torch.arange(20)[None]


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=ids).logits


def error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


model = get_peft_model(model, settings, adapter_name="first")
model.add_adapter("second", settings)
alone = {}
for name in ("first", "second"):
    model.set_adapter(name)
    alone[name] = logits(model)
model.base_model.set_adapter(["first", "second"])
both = logits(model)

model.set_adapter("second")
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    model.merge_adapter(["first"])
    merged = logits(model)
assert model.active_adapters == ["second"]
found = {name: error(merged, expected) for name, expected in (*alone.items(), ("both", both))}
print(f"first merged, second active, {len(said)} warnings; relative error of a logit against", end=" ")
print(", ".join(f"{name} {size:.1e}" for name, size in found.items()))
with model.disable_adapter():
    logits(model)
after = error(logits(model), alone["second"])
print(f"after disable_adapter(): against second {after:.1e}")
assert not said, "the behaviour has changed"
assert found["first"] < 1e-4, "the behaviour has changed"
assert found["both"] > 0.05 and found["second"] > 0.05, "the behaviour has changed"
assert after < 1e-4, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
