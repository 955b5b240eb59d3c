#!/usr/bin/env bash
# unload() of a model with modules_to_save does not give back the base.
#
# Package: peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Guess: `unload` returns "the base model by removing all the PEFT modules", as it says, and as disable_adapter() shows
#   it.
# Behaviour: the adapters are removed, but each module of `modules_to_save` is replaced by its trained copy. A base with
#   a trained output layer is neither the base nor the adapted model, and it is what a comparison with "the base" is
#   then measured on. For the same reason `merge_and_unload(adapter_names=[...])` takes the copy of the active adapter,
#   whichever one is named.
# Here: base and adapter are compared with the adapter disabled, or with a base that was loaded anew.
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

sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 100}
ids = torch.arange(20)[None]
print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")))


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=ids).logits


def errors(modules_to_save):
    """How far the logits are from the base's: with the adapter, with it disabled, and after unload()."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4))
    plain = logits(model)
    settings = LoraConfig(target_modules=["q_proj", "v_proj"], r=4, modules_to_save=modules_to_save)
    model = get_peft_model(model, settings).train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    states = [logits(model)]
    with model.disable_adapter():
        states.append(logits(model))
    states.append(logits(model.unload()))
    return [((state - plain).abs().max() / plain.abs().max()).item() for state in states]


found = {name: errors(modules) for name, modules in {"none": None, "lm_head": ["lm_head"]}.items()}
for name, (adapted, disabled, unloaded) in found.items():
    print(f"modules_to_save {name}: relative change of a logit {adapted:.2f},", end=" ")
    print(f"with the adapter disabled {disabled:.1e}, after unload() {unloaded:.1e}")
assert all(adapted > 0.05 and disabled < 1e-5 for adapted, disabled, _ in found.values())
assert found["none"][2] < 1e-5
assert found["lm_head"][2] > 0.05, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
