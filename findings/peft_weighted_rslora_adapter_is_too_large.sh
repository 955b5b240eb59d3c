#!/usr/bin/env bash
# Combining rank-stabilised adapters multiplies them by the square root of the rank.
#
# Package: peft 0.21.2, transformers 5.23.0, torch 2.13.0 (add_weighted_adapter).
# Guess: one adapter with the weight 1.0 gives the same adapter again, and "cat" of two the sum of their changes.
# Behaviour: so it is with the usual scaling alpha / r. With use_rslora=True the new adapter gets alpha = its rank, meant for
#   a scaling of 1, and then it is scaled by alpha / sqrt(r) = sqrt(r). At rank 4 a single adapter comes back twice as
#   large; "cat" of two has the rank 8 and is 2.83 times the sum. Nothing is said.
# Here: the course's combine_adapters gives the combination a scaling of 1 whatever its parts had.
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

sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "vocab_size": 100}
config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4)


def ratios(use_rslora):
    """Size of the combined change over that of the sum: of one adapter alone, and of two by "cat"."""
    torch.manual_seed(0)
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "use_rslora": use_rslora}
    settings = [LoraConfig(**options, init_lora_weights=False) for _ in range(2)]
    model = get_peft_model(LlamaForCausalLM(config), settings[0], adapter_name="a")
    model.add_adapter("b", settings[1])
    change = model.base_model.model.model.layers[0].self_attn.q_proj.get_delta_weight
    model.add_weighted_adapter(["a"], [1.0], "again", combination_type="linear")
    model.add_weighted_adapter(["a", "b"], [0.5, 0.5], "both", combination_type="cat")
    expected = 0.5 * change("a") + 0.5 * change("b")
    return [(change("again").norm() / change("a").norm()).item(), (change("both").norm() / expected.norm()).item()]


print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")))
found = {use_rslora: ratios(use_rslora) for use_rslora in (False, True)}
for use_rslora, (alone, both) in found.items():
    print(f"use_rslora={use_rslora}: one adapter x {alone:.3f}, two by cat x {both:.3f}")
assert all(abs(ratio - 1) < 1e-4 for ratio in found[False])
assert abs(found[True][0] - 2) < 1e-3, "the behaviour has changed"
assert abs(found[True][1] - 8**0.5) < 1e-3, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
