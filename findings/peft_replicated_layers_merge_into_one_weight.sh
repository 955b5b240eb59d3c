#!/usr/bin/env bash
# Merging an adapter on replicated layers is meant to be refused; it is carried out, and gives another model.
#
# Package: peft 0.21.2, transformers 5.23.0, torch 2.13.0 (LoraConfig(layer_replication=...)).
# Guess: merge_and_unload refuses such a model, as a check in the source means to ensure ("replicated layers do not
#   support merging"), since the copies of a layer share one weight. Or it gives each copy its own, and is right.
# Behaviour: the check asks `self.peft_config.get("layer_replication")`, and peft_config is a dictionary of adapters, so
#   the answer is always None. Every copy's update is added to the one shared weight: each copy gets the sum of them
#   all, without a word. `merge_adapter` does the same.
# Here: the course does not grow models by repeating layers; who does keeps the adapter unmerged.
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

sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 100}
ids = torch.arange(20)[None]
print(*(f"{name} {version(name)}" for name in ("peft", "transformers", "torch")))


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=ids).logits


def errors_after_merging(layers):
    """How far the merged logits are from the adapter's, and the weights from base plus all updates; count of layers."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4))
    targets = ["q_proj", "v_proj"]
    settings = LoraConfig(target_modules=targets, r=4, init_lora_weights=False, layer_replication=layers)
    model = get_peft_model(model, settings)
    expected = logits(model)
    sums = {}  # by the identity of a weight: with the updates of all layers that share it
    for layer in model.base_model.model.model.layers:
        projection = layer.self_attn.q_proj
        weight = projection.get_base_layer().weight
        sums.setdefault(id(weight), weight.detach().clone()).add_(projection.get_delta_weight("default").detach())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        merged = model.merge_and_unload()
    assert len(sums) == 2
    assert not said, "the behaviour has changed"
    weights = [layer.self_attn.q_proj.weight for layer in merged.model.layers]
    off = max((weight - sums[id(weight)]).abs().max().item() for weight in weights)
    return ((logits(merged) - expected).abs().max() / expected.abs().max()).item(), off, len(weights)


plain, off_plain, two = errors_after_merging(None)
replicated, off_replicated, four = errors_after_merging([[0, 2], [0, 2]])
print(f"relative error of a logit after merging: {two} layers {plain:.1e}, {four} layers of two {replicated:.1e}")
print(f"weights differ from base plus the updates of all copies by {off_plain:.1e} and {off_replicated:.1e}")
assert (two, four) == (2, 4)
assert plain < 1e-4 and off_plain < 1e-5
assert replicated > 0.05, "the behaviour has changed"
assert off_replicated < 1e-5, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
