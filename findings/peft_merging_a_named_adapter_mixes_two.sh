#!/usr/bin/env bash
# Merging a named adapter takes the trained modules of the active one.
#
# Package: peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Guess: `merge_and_unload(adapter_names=["second"])` gives the model of the adapter "second", whichever is active.
# Behaviour: the low-rank updates are those of "second", and each module of `modules_to_save`, such as an output layer,
#   is the active adapter's copy. The merged model is neither of the two, and nothing warns.
# Here: an adapter is made active before it is merged.
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
from transformers import LlamaConfig, LlamaForCausalLM

print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")))
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 100}
ids = torch.arange(20)[None]


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=ids).logits


def errors(active, modules_to_save):
    """How far the model with "second" merged is from each adapter's, when `active` is the active one."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4))
    options = {"r": 4, "init_lora_weights": False, "modules_to_save": modules_to_save}
    settings = LoraConfig(target_modules=["q_proj", "v_proj"], **options)
    model = get_peft_model(model, settings, adapter_name="first")
    model.add_adapter("second", settings)
    for name, weight in model.named_parameters():
        if "modules_to_save.second" in name:
            torch.nn.init.normal_(weight, std=0.02)  # as if it had been trained
    expected = []
    for name in ("first", "second"):
        model.set_adapter(name)
        expected.append(logits(model))
    model.set_adapter(active)
    merged = logits(model.merge_and_unload(adapter_names=["second"]))
    return [((merged - found).abs().max() / found.abs().max()).item() for found in expected]


found = {}
for modules in (None, ["lm_head"]):
    for active in ("second", "first"):
        found[bool(modules), active] = first, second = errors(active, modules)
        print(f'modules_to_save={modules}, {active} active, "second" merged: relative error of a logit', end=" ")
        print(f"against first {first:.1e}, against second {second:.1e}")
assert all(second < 1e-4 for (_, second) in list(found.values())[:3])
assert min(found[True, "first"]) > 0.05, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
