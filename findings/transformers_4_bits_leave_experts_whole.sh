#!/usr/bin/env bash
# load_in_4bit leaves the experts of a mixture of experts as they are, which is nearly all of the model.
#
# Package: transformers 5.23.0, with bitsandbytes 0.50.2, torch 2.13.0 and accelerate 1.15.0 (BitsAndBytesConfig,
#   MixtralForCausalLM).
# Guess: four bits mean about an eighth of float32's memory for every linear layer but the output, the experts
#   included, as in transformers 4.
# Behaviour: transformers 5 keeps the experts of a layer in two parameters of three axes, and only nn.Linear is
#   replaced. The attention is quantised, the experts stay in the file's type: a Mixtral of eight experts takes 0.97 of
#   its memory in bfloat16, where a Llama takes 0.30. There is no warning, and is_loaded_in_4bit is True. With
#   load_in_8bit it is the same.
# Here: QLoRA on a mixture of experts does not fit where the arithmetic says that it does.
set -euo pipefail
packages=(transformers==5.23.0 bitsandbytes==0.50.2 torch==2.13.0 accelerate==1.15.0)
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
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, MixtralConfig
from transformers.utils import logging

logging.set_verbosity_warning()
logging.disable_progress_bar()
print(*(f"{name} {version(name)}" for name in ("transformers", "bitsandbytes", "torch", "accelerate")))
sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2}
heads = {"num_attention_heads": 4, "num_key_value_heads": 4}


def shares(config):
    """Memory in 4 and in 8 bits as a share of the whole model's, and the types of the weights in 4 bits."""
    folder = tempfile.mkdtemp(dir=".")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).get_memory_footprint()
    memory, types = [], {}
    for bits in ("4bit", "8bit"):
        quantization = BitsAndBytesConfig(**{f"load_in_{bits}": True})
        options = {"quantization_config": quantization, "dtype": torch.bfloat16, "device_map": "cpu"}
        model = AutoModelForCausalLM.from_pretrained(folder, **options)
        assert getattr(model, f"is_loaded_in_{bits}")
        memory.append(model.get_memory_footprint() / whole)
        for name, parameter in model.named_parameters():
            if ".layers.0." in name and parameter.ndim > 1:
                types.setdefault(name.split(".layers.0.")[1], str(parameter.dtype))
    return memory, types


dense, dense_types = shares(LlamaConfig(**sizes, **heads))
sparse, sparse_types = shares(MixtralConfig(num_local_experts=8, **sizes, **heads))
for name, (four, eight), types in (("Llama", dense, dense_types), ("Mixtral", sparse, sparse_types)):
    print(f"{name}: {four:.2f} of bfloat16's memory in 4 bits, {eight:.2f} in 8 bits")
    for parameter, kind in types.items():
        print(f"  {parameter}: {kind}")
experts = [kind for name, kind in sparse_types.items() if "experts" in name]
assert dense[0] < 0.45
assert dense_types["mlp.down_proj.weight"] == "torch.uint8"
assert experts, "the experts are stored in another way now"
assert all(kind == "torch.bfloat16" for kind in experts), "the behaviour has changed"
assert sparse[0] > 0.8 and sparse[1] > 0.8, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
