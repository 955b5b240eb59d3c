#!/usr/bin/env bash
# A classifier or reward model whose padding token is its end token never reads the end token.
#
# Package: transformers 5.23.0, with torch 2.13.0 (AutoModelForSequenceClassification of a decoder).
# Guess: the score stands at the last token that the attention mask shows, so an answer that ends scores differently
#   from the same answer cut off before its end token.
# Behaviour: the score is read at the last token that is not pad_token_id; the mask is not looked at. With pad = eos,
#   as most recipes set it, that is the token before the end: an answer with and without its end token has bit-equal
#   scores. TRL's RewardTrainer appends the end token for nothing. With a padding token of its own the two differ.
# Here: a reward model cannot learn that an answer is complete, and best-of-n by it prefers none.
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
from importlib.metadata import version

import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig
from transformers.utils import logging

logging.set_verbosity_error()
print(*(f"{name} {version(name)}" for name in ("transformers", "torch")))
sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
END = 2


@torch.no_grad()
def scores(padding):
    """The scores of an answer with its end token and without it, with attention masks, in one batch each."""
    torch.manual_seed(0)
    config = LlamaConfig(num_labels=1, eos_token_id=END, pad_token_id=padding, initializer_range=0.2, **sizes)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    answers = torch.tensor([[1, 5, 6, 7, END]]), torch.tensor([[1, 5, 6, 7]])
    return [model(ids, attention_mask=torch.ones_like(ids)).logits.item() for ids in answers]


for name, padding in (("its own padding token", 0), ("pad = eos", END)):
    ended, cut = scores(padding)
    print(f"{name}: with the end token {ended:+.4f}, cut before it {cut:+.4f}")
    assert (ended == cut) == (padding == END), "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
