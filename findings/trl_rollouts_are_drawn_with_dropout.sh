#!/usr/bin/env bash
# GRPOTrainer and RLOOTrainer draw their completions from the model with dropout on.
#
# Package: trl 1.16.0, with peft 0.21.2, transformers 5.23.0, torch 2.13.0 and datasets 5.2.0.
# Guess: the policy that answers is the model as it is evaluated and served; dropout, if any, belongs to the update.
# Behaviour: the model stays in train() while it generates, and disable_dropout is False, unlike in DPO, KTO and the
#   reward trainer. With lora_dropout the answers of one prompt differ even where sampling takes the best token, and
#   RLOO, which scores its own answers twice with other masks, finds ratios far from 1 in the first pass and clips
#   about half of the sequences that it has just drawn: they give no gradient.
# Here: the course's own GRPO samples in eval(). In TRL: disable_dropout=True, or lora_dropout=0.
set -euo pipefail
packages=(trl==1.16.0 peft==0.21.2 transformers==5.23.0 torch==2.13.0 datasets==5.2.0)
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
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

logging.set_verbosity_error()
disable_progress_bars()
print(*(f"{name} {version(name)}" for name in ("trl", "peft", "transformers", "torch", "datasets")))
words = ["<pad>", "<eos>", "<unk>", *(f"w{number}" for number in range(61))]
backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
data = Dataset.from_list([{"prompt": f"w{number} w2"} for number in range(4)])
sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def reward(completions, **columns):
    return [float(len(set(text.split()))) for text in completions]


def one_step(trainer_class, config_class, **options):
    """The completions of the first step, of an adapter with dropout at a learning rate of 0, and what is logged."""
    drawn = []

    class Watched(trainer_class):
        def _generate(self, prompts):
            result = super()._generate(prompts)
            drawn.extend(tuple(ids) for ids in result[1])
            return result

    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(eos_token_id=1, pad_token_id=0, initializer_range=0.2, **sizes))
    layers = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.1, **layers))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    arguments = config_class(
        tempfile.mkdtemp(dir="."),
        use_cpu=True,
        bf16=False,
        max_steps=1,
        learning_rate=0.0,
        per_device_train_batch_size=16,
        num_generations=16,
        max_completion_length=64,
        gradient_checkpointing=False,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        **options,
    )
    trainer = Watched(
        model, reward_funcs=reward, args=arguments, train_dataset=data, processing_class=tokenizer
    )
    trainer.train()
    return len(set(drawn)), trainer.state.log_history[0]


different, clipped = {}, {}
for off in (True, False):
    different[off], _ = one_step(GRPOTrainer, GRPOConfig, top_k=1, disable_dropout=off)
    _, log = one_step(RLOOTrainer, RLOOConfig, disable_dropout=off)
    clipped[off] = log["clip_ratio/region_mean"]
    print(
        f"disable_dropout={off}: GRPO, top_k=1, 16 completions of one prompt: {different[off]} different ones;"
        f" RLOO, first pass over its own completions: {clipped[off]:.0%} clipped"
    )
assert different[True] == 1
assert clipped[True] == 0
assert different[False] > 2, "the behaviour has changed"
assert clipped[False] > 0.2, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
