#!/usr/bin/env bash
# modules_to_save=["norm"] trains every normalisation layer, where target_modules=["norm"] would take one.
#
# Package: peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Guess: a name in `modules_to_save` means the modules with this name, as in `target_modules`: "norm" is the last
#   normalisation of a Llama, and "head" is no module at all.
# Behaviour: `modules_to_save` takes every module whose path ends with these letters: "norm" also takes each
#   "input_layernorm" and "post_attention_layernorm", and "head" takes "lm_head". All of them are copied, trained and
#   saved, and nothing is said. `target_modules` compares whole names.
# Here: an adapter's trainable parameters are counted before it is trained.
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


def base():
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4))


def saved(name):
    """The modules that are trained beside the adapter."""
    model = get_peft_model(base(), LoraConfig(target_modules=["q_proj"], modules_to_save=[name]))
    mark = ".modules_to_save.default.weight"
    trained = [key for key, weight in model.named_parameters() if weight.requires_grad and key.endswith(mark)]
    return [key.removeprefix("base_model.model.").removesuffix(mark) for key in trained]


found = {name: saved(name) for name in ("model.norm", "norm", "head")}
for name, modules in found.items():
    print(f"modules_to_save=[{name!r}]: {', '.join(modules)}")
targets = get_peft_model(base(), LoraConfig(target_modules=["proj", "q_proj"]))
adapted = sorted({key.split(".")[-4] for key, _ in targets.named_parameters() if "lora_A" in key})
print(f'target_modules=["proj", "q_proj"]: {", ".join(adapted)}')
assert adapted == ["q_proj"]  # "proj" is the end of many names, and the name of none
assert found["model.norm"] == ["model.norm"]
assert len(found["norm"]) == 5, "the behaviour has changed"
assert found["head"] == ["lm_head"], "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
