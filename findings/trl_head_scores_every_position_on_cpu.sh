#!/usr/bin/env bash
# TRL's SFTTrainer puts every position through the head on a CPU, also those without a label.
#
# Package: trl 1.16.0, transformers 5.23.0, torch 2.13.0, datasets 5.2.0 (SFTTrainer.compute_loss).
# Guess: the fused head scores the positions that have a label, as its description says ("only positions whose next-token
#   label is not -100"), so a batch with one label needs one row of logits.
# Behaviour: without Triton, so on every CPU, all positions are multiplied by the vocabulary and what has no label is
#   thrown away: a batch with one label takes as many operations as one with labels everywhere.
# Here: of instructions three tokens in four have no label, and the head is a fifth of SmolLM2's multiplications.
#   `course bench sft` compares ours with it.
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
from importlib.metadata import version

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

print(*(f"{name} {version(name)}" for name in ("trl", "transformers", "torch")))
TIME, VOCABULARY, WIDTH = 64, 4096, 16
words = {f"w{i}": i for i in range(VOCABULARY)}
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), eos_token="w1", pad_token="w2"
)
shape = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
torch.manual_seed(0)
ids = torch.randint(3, VOCABULARY, (TIME,)).tolist()


def flops(labelled):
    """The multiplications of one loss of which so many positions have a label."""
    labels = [-100] * (TIME - labelled) + ids[TIME - labelled :]
    trainer = SFTTrainer(
        LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **shape)),
        args=SFTConfig("out", use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none"),
        train_dataset=Dataset.from_list([{"input_ids": ids, "labels": labels}]),
        processing_class=tokenizer,
    )
    batch = trainer.data_collator([trainer.train_dataset[0]])
    with FlopCounterMode(display=False) as counter:
        trainer.compute_loss(trainer.model, batch)
    return counter.get_total_flops()


one, all_but_the_first = flops(1), flops(TIME - 1)
head = 2 * (TIME - 1) * VOCABULARY * WIDTH  # of every position that has a next token
print(f"one label: {one:,} operations; {TIME - 1} labels: {all_but_the_first:,}; the head on every position: {head:,}")
assert one == all_but_the_first > head, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
