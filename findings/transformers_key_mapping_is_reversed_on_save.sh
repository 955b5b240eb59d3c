#!/usr/bin/env bash
# A model that was loaded with key_mapping is saved under the names that the mapping removed.
#
# Package: transformers 5.23.0, torch 2.13.0, safetensors 0.8.0.
# Guess: key_mapping says how to read a file's names once; save_pretrained writes the model's own names.
# Behaviour: save_pretrained applies the mapping backwards. After key_mapping={"^_orig_mod\.": ""}, which removes what
#   torch.compile puts before the names, they are saved with the prefix again. Whoever loads that folder, which looks
#   like any other, gets random weights in all tensors, with a report but no error.
# Here: the course removes known prefixes itself when it loads, and checks that no tensor is missing.
set -euo pipefail
packages=(transformers==5.23.0 torch==2.13.0 safetensors==0.8.0)
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
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

logging.set_verbosity_error()
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "vocab_size": 100}
model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4))


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


print(*(f"{name} {version(name)}" for name in ("transformers", "torch", "safetensors")))
with tempfile.TemporaryDirectory() as folder:
    compiled, again = Path(folder, "compiled"), Path(folder, "again")
    model.save_pretrained(compiled)
    file = compiled / "model.safetensors"
    tensors = {"_orig_mod." + name: tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    read = LlamaForCausalLM.from_pretrained(compiled, key_mapping={r"^_orig_mod\.": ""})
    read.save_pretrained(again)
    names = sorted(load_file(again / "model.safetensors"))
    reread, info = LlamaForCausalLM.from_pretrained(again, output_loading_info=True)
print("read with key_mapping: equal to what was saved:", same(model, read))
print("saved again as:", *names[:2], "...")
print(f"loaded from there: {len(info['missing_keys'])} tensors missing, equal: {same(model, reread)}")
assert same(model, read)
assert not same(model, reread) and info["missing_keys"], "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
