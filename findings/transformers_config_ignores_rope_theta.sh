#!/usr/bin/env bash
# config.rope_theta can be set, is saved, and does nothing in transformers 5.
#
# Package: transformers 5.23.0, with torch 2.13.0 (LlamaConfig and the others with rotary positions).
# Guess: config.rope_theta = 500000.0 before from_pretrained(config=config) changes the base of the rotary positions,
#   as in transformers 4, or an unknown name is refused.
# Behaviour: the base stands in config.rope_parameters["rope_theta"] now. Given to the constructor, rope_theta goes
#   there; set afterwards, it becomes an attribute that nobody reads. config.json then holds both values, and loading
#   it takes the old one. Nothing warns.
# Here: raising the base is the usual way to train a model for longer texts; such a run trains with the old base.
set -euo pipefail
packages=(transformers==5.23.0 torch==2.13.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" numpy ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig
from transformers.utils import logging

logging.set_verbosity_warning()
logging.disable_progress_bar()
print(*(f"{name} {version(name)}" for name in ("transformers", "torch")))
sizes = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
folder = Path(tempfile.mkdtemp(dir="."))
AutoModelForCausalLM.from_config(LlamaConfig(**sizes)).save_pretrained(folder)


def base(config):
    """The base that the model's positions have: the second frequency is base ** (-2 / 16)."""
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
    return model.model.rotary_emb.inv_freq[1].item() ** -8


config = AutoConfig.from_pretrained(folder)
print(f"as saved:                      {base(config):8.0f}")
given = base(LlamaConfig(rope_theta=500000.0, **sizes))
print(f"given to the constructor:      {given:8.0f}")
config.rope_theta = 500000.0
changed = base(config)
print(f"set as an attribute:           {changed:8.0f}, while config.rope_theta is {config.rope_theta:.0f}")
config.save_pretrained(folder)
stored = json.loads((folder / "config.json").read_text())
again = base(AutoConfig.from_pretrained(folder))
print(f"saved and loaded:              {again:8.0f}; config.json has rope_theta {stored.get('rope_theta')}")
print(f"                               and rope_parameters {stored['rope_parameters']}")
config.rope_parameters["rope_theta"] = 500000.0
print(f"set in rope_parameters:        {base(config):8.0f}")
assert round(given, -3) == round(base(config), -3) == 500000
assert round(changed, -3) == 10000, "the behaviour has changed"
assert stored["rope_theta"] == 500000.0, "the behaviour has changed"
assert round(again, -3) == 10000, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
