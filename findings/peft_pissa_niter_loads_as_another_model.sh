#!/usr/bin/env bash
# An adapter made with init_lora_weights="pissa_niter_1" is another model each time it is loaded.
#
# Package: peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Guess: save_pretrained and PeftModel.from_pretrained give back what was saved, as they do for "pissa" and the default.
# Behaviour: loading decomposes the base again, for pissa_niter_N with a random algorithm whose seed is not stored. The
#   base's residual differs from that of the saving process, and the adapter is added to it without a word. The logits
#   differ by about half of their largest value, and by another amount under another seed; "pissa" comes back exactly.
# Here: the course's reader refuses adapters whose residual cannot be rebuilt, and names the setting.
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
import tempfile
from importlib.metadata import version

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 100}
config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4)
ids = torch.arange(20)[None]


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def errors(kind):
    """The largest difference of a logit after saving and loading, under two seeds, relative to the largest logit."""
    torch.manual_seed(1)
    settings = LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=kind)
    model = get_peft_model(base(), settings).eval()
    expected = model(ids).logits
    found = []
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        for seed in (1, 2):
            fresh = base()
            torch.manual_seed(seed)
            logits = PeftModel.from_pretrained(fresh, folder).eval()(ids).logits
            found.append(((logits - expected).abs().max() / expected.abs().max()).item())
    return found


print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")))
found = {str(kind): errors(kind) for kind in (True, "pissa", "pissa_niter_1")}
for kind, values in found.items():
    print(f"init_lora_weights={kind}: relative error of a logit {values[0]:.1e} and {values[1]:.1e}")
assert max(found["True"] + found["pissa"]) < 1e-4
assert min(found["pissa_niter_1"]) > 0.05, "the behaviour has changed"
assert found["pissa_niter_1"][0] != found["pissa_niter_1"][1], "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
