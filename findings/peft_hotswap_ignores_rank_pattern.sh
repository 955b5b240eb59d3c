#!/usr/bin/env bash
# An adapter with a rank of its own for some modules is swapped in with a wrong scale.
#
# Package: peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Guess: hotswap_adapter gives the model that from_pretrained gives, or refuses an adapter that it cannot swap, as it
#   refuses one with an alpha_pattern ("Configs are incompatible").
# Behaviour: rank_pattern is neither read nor refused. The weights of the module's own rank are copied, and scaled by
#   alpha over the common rank: with rank 8 where the others have 4, twice as much as the adapter's file says. The
#   same file loads correctly by from_pretrained.
# Here: adapters with a rank per module are loaded, not swapped.
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
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 100}
ids = torch.arange(20)[None]
VALUE = "base_model.model.model.layers.0.self_attn.v_proj"


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4)).eval()


@torch.no_grad()
def logits(model):
    return model.eval()(ids).logits


def make(folder, **settings):
    """Save an adapter with random weights, and give its model's logits."""
    settings |= {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    model = get_peft_model(base(), LoraConfig(**settings))
    model.save_pretrained(folder)
    return logits(model)


def look(model, expected):
    """The relative error of a logit, and the scale of a module with a rank of its own."""
    error = (logits(model) - expected).abs().max() / expected.abs().max()
    return error.item(), model.get_submodule(VALUE).scaling["default"]


print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")))
make("first")
found = {}
for name, settings in {"one rank": {}, "a rank_pattern": {"rank_pattern": {"v_proj": 8}}}.items():
    expected = make("second", **settings)
    loaded = look(PeftModel.from_pretrained(base(), "second"), expected)
    model = PeftModel.from_pretrained(base(), "first")
    hotswap_adapter(model, "second", "default", torch_device="cpu")
    found[name] = loaded, look(model, expected)
    for how, (error, scale) in zip(("loaded", "swapped in"), found[name], strict=True):
        print(f"{name}, {how}: relative error {error:.1e}, scale of v_proj {scale}")
assert max(error for error, _ in found["one rank"]) < 1e-5
(error, scale), (swapped_error, swapped_scale) = found["a rank_pattern"]
assert error < 1e-5 and scale == 1
assert swapped_error > 0.02 and swapped_scale == 2, "the behaviour has changed"

make("third", alpha_pattern={"v_proj": 64})
try:
    hotswap_adapter(PeftModel.from_pretrained(base(), "first"), "third", "default", torch_device="cpu")
except ValueError as problem:
    print("an alpha_pattern is refused:", problem)
else:
    raise AssertionError("an alpha_pattern is no longer refused")
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
