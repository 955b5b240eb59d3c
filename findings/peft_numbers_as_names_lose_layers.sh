#!/usr/bin/env bash
# Adapters named "0", "1", "2" lose layers when they are saved.
#
# Package: peft 0.21.2, with transformers 5.23.0, torch 2.13.0 and safetensors 0.8.0.
# Guess: an adapter's name is a label; each of two adapters on a model is saved whole.
# Behaviour: before an adapter is saved, every tensor is dropped whose name has ".NAME." of another adapter in it,
#   anywhere. "model.layers.1.…" has ".1." in it: beside an adapter named "1", the adapter "0" is saved without layer 1,
#   and "1" without layer 0. The same happens with names of modules, such as "mlp" or "encoder". Saving says nothing;
#   loading warns of missing keys and fills them with fresh, empty updates.
# Here: the course names adapters after tasks, and numbers in names have a word before them, such as "seed-1".
set -euo pipefail
packages=(peft==0.21.2 transformers==5.23.0 torch==2.13.0 safetensors==0.8.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" numpy ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import re
import warnings
from importlib.metadata import version

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "vocab_size": 100}
settings = LoraConfig(target_modules=["q_proj", "v_proj"], r=4)
ids = torch.arange(20)[None]
print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch", "safetensors")))


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4))


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=ids).logits


def saved(names):
    """The layers in each adapter's file, and how far the model loaded from it is from the one that was saved."""
    model = get_peft_model(base(), settings, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, settings)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    found = {}
    for name in names:
        model.set_adapter(name)
        expected = logits(model)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model.save_pretrained(".", selected_adapters=[name])
        said = [str(warning.message) for warning in said]
        assert not any(re.search("key|layer|lora", text) for text in said), "the behaviour has changed"
        with safe_open(f"{name}/adapter_model.safetensors", "pt") as file:
            layers = sorted({int(re.search(r"layers\.(\d+)", key)[1]) for key in file.keys()})
        loaded = logits(PeftModel.from_pretrained(base(), name))
        found[name] = layers, ((loaded - expected).abs().max() / expected.abs().max()).item()
        print(f"{name!r}: layers {layers} saved, relative error of a logit after loading {found[name][1]:.1e}")
    return found


words = saved(["first", "second", "third"])
numbers = saved(["0", "1", "2"])
assert all(layers == [0, 1, 2, 3] and error < 1e-5 for layers, error in words.values())
assert [layers for layers, _ in numbers.values()] == [[0, 3], [1, 3], [2, 3]], "the behaviour has changed"
assert all(error > 0.05 for _, error in numbers.values()), "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
