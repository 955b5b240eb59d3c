#!/usr/bin/env bash
# Evaluating in between gives another trained model, though evaluation draws nothing at random.
#
# Package: transformers 5.23.0, torch 2.13.0, accelerate 1.15.0.
# Guess: the model is in eval mode, without dropout, and the rows come in order, so how often a run is evaluated does
#   not change what it learns; the Trainer takes care of seeds, and goes on from a checkpoint bit for bit.
# Behaviour: beginning to iterate over a DataLoader draws a number from torch's global generator (for the seeds of
#   workers, also where there are neither workers nor shuffling). With any dropout, all masks after the first
#   evaluation are others. eval_steps of 3 and of 8 give two models, both different from that of the run without
#   evaluation; the same happens whenever the loop is written by hand. Without dropout the three are equal bit for
#   bit.
# Here: the course's evaluation walks over batches of its own and leaves the generator alone.
set -euo pipefail
packages=(transformers==5.23.0 torch==2.13.0 accelerate==1.15.0)
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
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 50}
generator = torch.Generator().manual_seed(1)
rows = [torch.randint(50, (12,), generator=generator) for _ in range(16)]
data = [{"input_ids": row, "labels": row} for row in rows]


def train(dropout, **settings):
    """All weights after two epochs."""
    torch.manual_seed(0)
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4, attention_dropout=dropout)
    model = LlamaForCausalLM(config)
    with tempfile.TemporaryDirectory() as folder:
        settings |= {"use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no"}
        settings |= {"per_device_train_batch_size": 2, "num_train_epochs": 2, "learning_rate": 1e-2}
        arguments = TrainingArguments(folder, seed=1, **settings)
        trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data[:4])
        trainer.log = lambda logs, *rest: None
        trainer.train()
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def differences(dropout):
    """The largest difference of a weight from the run without evaluation, for three intervals."""
    alone = train(dropout)
    runs = (train(dropout, eval_strategy="steps", eval_steps=steps) for steps in (100, 8, 3))
    return [(run - alone).abs().max().item() for run in runs]


print(*(f"{name} {version(name)}" for name in ("transformers", "torch", "accelerate")))
torch.manual_seed(0)
before = torch.get_rng_state()
list(DataLoader(rows, batch_size=2))
print("a plain loader moves the generator:", not torch.equal(before, torch.get_rng_state()))
without, with_dropout = differences(0.0), differences(0.3)
print("largest difference of a weight; no evaluation before the end, every 8 steps, every 3 steps:")
print("without dropout", without, "with dropout", with_dropout)
assert without == [0, 0, 0]
assert with_dropout[0] == 0
assert min(with_dropout[1:]) > 1e-3, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
