#!/usr/bin/env bash
# create_loraplus_optimizer drops the weight decay that it is given.
#
# Package: peft 0.21.2, transformers 5.23.0, torch 2.13.0 (peft.optimizers.create_loraplus_optimizer).
# Guess: "additional keyword arguments" go to the optimiser, as the documentation says: weight_decay=0.1 decays, and
#   AdamW without it decays by its default of 0.01.
# Behaviour: each group of parameters has a weight decay of its own, which is 0 unless `loraplus_weight_decay` is given,
#   a name that the documentation does not list. weight_decay is accepted, becomes the optimiser's default, and no group
#   has it.
# Here: a comparison of LoRA+ with AdamW gives both the same decay, by both names.
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
from peft.optimizers import create_loraplus_optimizer
from transformers import LlamaConfig, LlamaForCausalLM

print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")))
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 100}
model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4))
model = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], r=4))
settings = {"lr": 1e-3, "loraplus_lr_ratio": 16}


def decays(**options):
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, **settings, **options)
    return optimizer.defaults["weight_decay"], {g["weight_decay"] for g in optimizer.param_groups if g["params"]}


for options in ({}, {"weight_decay": 0.1}, {"loraplus_weight_decay": 0.1}):
    default, groups = decays(**options)
    print(f"{options}: the optimiser's default is {default}, the groups have {sorted(groups)}")
assert decays(loraplus_weight_decay=0.1)[1] == {0.1}
assert decays(weight_decay=0.1) == (0.1, {0.0}), "the behaviour has changed"
assert decays() == (0.01, {0.0}), "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
