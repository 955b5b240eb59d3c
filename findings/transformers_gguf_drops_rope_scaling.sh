#!/usr/bin/env bash
# A GGUF file's RoPE scaling is dropped by transformers: a model stretched to a longer context is another model.
#
# Package: transformers 5.23.0, with gguf 0.19.0 and torch 2.13.0 (from_pretrained with gguf_file=).
# Guess: the model's configuration comes from the file, with the scaling of the positions, or the file is refused.
# Behaviour: the keys "rope.scaling.*" (linear, YaRN) are read for gpt-oss only. For Llama and Qwen2 they are dropped,
#   and so is the tensor "rope_freqs.weight", in which Llama 3.1 and later keep their frequencies. The rope is
#   "default", nothing warns, and the logits are those of a model without scaling. llama.cpp applies both.
# Here: a converted file is then fine-tuned with positions that its weights do not know.
set -euo pipefail
packages=(transformers==5.23.0 gguf==0.19.0 torch==2.13.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" numpy accelerate ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import tempfile
from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

logging.set_verbosity_warning()
logging.disable_progress_bar()
print(*(f"{name} {version(name)}" for name in ("transformers", "gguf", "torch")))


def load(architecture, scaling=None, frequencies=None):
    """Write a model of one layer, and load it."""
    path = Path(tempfile.mkdtemp(dir=".")) / "model.gguf"
    file = gguf.GGUFWriter(path, architecture)
    file.add_name("tiny")
    file.add_vocab_size(32)
    file.add_context_length(1024)
    file.add_embedding_length(32)
    file.add_block_count(1)
    file.add_feed_forward_length(64)
    file.add_head_count(2)
    file.add_head_count_kv(2)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_dimension_count(16)
    file.add_rope_freq_base(10000.0)
    if scaling:
        file.add_rope_scaling_type(scaling)
        file.add_rope_scaling_factor(8.0)
        file.add_rope_scaling_orig_ctx_len(128)
    random = np.random.default_rng(0)
    shapes = {"token_embd": (32, 32), "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64)}
    shapes |= {f"blk.0.attn_{name}": (32, 32) for name in ("q", "k", "v", "output")}
    for name, shape in shapes.items():
        file.add_tensor(f"{name}.weight", random.standard_normal(shape).astype(np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        file.add_tensor(f"{name}.weight", np.ones(32, np.float32))
    if architecture == "qwen2":
        for name in ("q", "k", "v"):
            file.add_tensor(f"blk.0.attn_{name}.bias", np.zeros(32, np.float32))
    if frequencies is not None:
        file.add_tensor("rope_freqs.weight", frequencies)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)


@torch.no_grad()
def logits(model):
    return model(torch.arange(20)[None]).logits


files = {
    "llama, linear by 8": ("llama", {"scaling": gguf.RopeScalingType.LINEAR}),
    "llama, rope_freqs.weight of 8": ("llama", {"frequencies": np.full(8, 8.0, np.float32)}),
    "qwen2, YaRN by 8": ("qwen2", {"scaling": gguf.RopeScalingType.YARN}),
}
for name, (architecture, scaled) in files.items():
    model, plain = load(architecture, **scaled), load(architecture)
    kind = model.config.rope_parameters["rope_type"]
    same = torch.equal(logits(model), logits(plain))
    print(f"{name}: rope type {kind!r}, logits equal to those of the file without it: {same}")
    assert kind == "default", "the behaviour has changed"
    assert same, "the behaviour has changed"

plain = load("llama")
expected = logits(plain)
plain.model.rotary_emb.inv_freq /= 8  # what linear scaling means
print(f"what the scaling would change: {(logits(plain) - expected).abs().max():.2f} in the logits")
assert (logits(plain) - expected).abs().max() > 0.1
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
