#!/usr/bin/env bash
# KTOTrainer trains on a paired data set's chosen answers first and on its rejected ones afterwards.
#
# Package: trl 1.16.0, with transformers 5.23.0, torch 2.13.0 and datasets 5.2.0.
# Guess: rows with "chosen" and "rejected" become pairs of good and bad answers, which a batch holds mixed.
# Behaviour: each 1,000 rows become their 1,000 chosen answers followed by their 1,000 rejected ones, and the default
#   sampling is sequential, the only one that the KTO loss accepts. Up to 1,000 good answers come before the first bad
#   one, nearly every batch has one side only, and then no margin is logged. Shuffling the pairs beforehand does not
#   change this.
# Here: the course does not use KTO. Elsewhere, give the trainer unpair_preference_dataset(data).shuffle(seed=0).
set -euo pipefail
packages=(trl==1.16.0 transformers==5.23.0 torch==2.13.0 datasets==5.2.0)
if [ -n "${NEWEST:-}" ]; then packages=("${packages[@]%%==*}"); fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
could_not_run() { echo "could not run: $1" >&2; exit 2; }

python3 -m venv "$folder/env" || could_not_run "python3 -m venv failed"
"$folder/env/bin/python" -m pip --quiet --disable-pip-version-check install "${packages[@]}" numpy ||
  could_not_run "pip could not install ${packages[*]}"

cat >"$folder/check.py" <<'PYTHON'
import copy
import tempfile
from importlib.metadata import version

import torch
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging
from trl import KTOConfig, KTOTrainer
from trl.data_utils import unpair_preference_dataset

logging.set_verbosity_error()
disable_progress_bars()
print(*(f"{name} {version(name)}" for name in ("trl", "transformers", "torch", "datasets")))
words = ["<pad>", "<eos>", "<unk>", *(f"w{number}" for number in range(61))]
backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
rows = [{"prompt": f"w{n} w2", "chosen": f" w3 w{n}", "rejected": f" w5 w{n}"} for n in range(40)]
sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def sides(data):
    """What the batches of one epoch hold: + chosen answers alone, - rejected ones alone, M both."""
    seen = []

    class Watched(KTOTrainer):
        def compute_loss(self, model, inputs, *arguments, **named):
            labels = set(map(bool, inputs["label"]))
            seen.append("M" if len(labels) == 2 else "+" if labels == {True} else "-")
            return super().compute_loss(model, inputs, *arguments, **named)

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(eos_token_id=1, pad_token_id=0, **sizes))
    reference = copy.deepcopy(model)
    arguments = KTOConfig(
        tempfile.mkdtemp(dir="."),
        use_cpu=True,
        bf16=False,
        num_train_epochs=1,
        per_device_train_batch_size=8,
        gradient_checkpointing=False,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Watched(model, ref_model=reference, args=arguments, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    margins = sum("rewards/margins" in log for log in trainer.state.log_history)
    return "".join(seen), margins


paired = sides(Dataset.from_list(rows).shuffle(seed=0))
mixed = sides(unpair_preference_dataset(Dataset.from_list(rows)).shuffle(seed=0))
print(f"pairs, as they are: batches {paired[0]}, margins logged {paired[1]} times")
print(f"unpaired and shuffled by hand: batches {mixed[0]}, margins logged {mixed[1]} times")
assert mixed[0].count("M") > 7
assert mixed[1] > 7
assert paired == ("+++++-----", 0), "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
