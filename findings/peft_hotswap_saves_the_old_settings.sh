#!/usr/bin/env bash
# An adapter that was swapped in is saved with the rank and the alpha of the one before it.
#
# Package: peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Guess: after hotswap_adapter the model has the new adapter, so save_pretrained writes the new one.
# Behaviour: the weights and the scaling are the new ones, and the outputs right, but peft_config stays that of the
#   first adapter, and that is what is written beside the new weights. With another alpha the folder loads, without a
#   word, as another model; with another rank it does not load at all ("size mismatch").
# Here: the course loads each adapter under a name of its own and does not swap; who does saves with the new settings.
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
import json
from importlib.metadata import version
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 100}
ids = torch.arange(20)[None]


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4)).eval()


@torch.no_grad()
def logits(model):
    return model.eval()(ids).logits


def make(folder, rank, alpha):
    """Save an adapter with random weights, and give its model's logits."""
    targets = ["q_proj", "v_proj"]
    settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights=False)
    model = get_peft_model(base(), settings)
    model.save_pretrained(folder)
    return logits(model)


def error(model, expected):
    return ((logits(model) - expected).abs().max() / expected.abs().max()).item()


print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")))
make("first", rank=4, alpha=8)
expected = make("second", rank=4, alpha=64)
model = PeftModel.from_pretrained(base(), "first")
hotswap_adapter(model, "second", "default", torch_device="cpu")
swapped = error(model, expected)
model.save_pretrained("again")
alphas = [json.loads(Path(name, "adapter_config.json").read_text())["lora_alpha"] for name in ("second", "again")]
loaded = error(PeftModel.from_pretrained(base(), "again"), expected)
print(f"relative error of a logit: swapped {swapped:.1e}, saved and loaded {loaded:.1e}; alpha {alphas}")
assert swapped < 1e-5
assert alphas == [64, 8] and loaded > 0.05, "the behaviour has changed"

make("larger", rank=8, alpha=8)
model = PeftModel.from_pretrained(base(), "first")
hotswap_adapter(model, "larger", "default", torch_device="cpu")
model.save_pretrained("larger again")
try:
    PeftModel.from_pretrained(base(), "larger again")
except RuntimeError as problem:
    print(str(problem).splitlines()[1].strip())
else:
    raise AssertionError("the behaviour has changed")
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
