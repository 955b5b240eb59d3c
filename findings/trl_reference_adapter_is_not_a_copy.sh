#!/usr/bin/env bash
# DPOTrainer's reference for a trained adapter lacks what PEFT keeps in a ParameterDict: embeddings, new tokens, VeRA.
#
# Package: trl 1.16.0, with peft 0.21.2, transformers 5.23.0, torch 2.13.0 and datasets 5.2.0 (DPOTrainer given a
#   PeftModel and no ref_model).
# Guess: the reference is a frozen copy of the adapter as it came in, so that all rewards are 0 and the loss is log 2
#   until the first update.
# Behaviour: the copy takes the parameters whose name contains ".default.". Those that end with ".default" are left
#   out: a LoRA of the embedding, the rows of trainable_token_indices, all of VeRA. For these the reference is a fresh
#   adapter. Before the first update the margins are not 0, and the reference is neither the base nor the adapter. KTO,
#   GRPO and RLOO copy in the same way.
# Here: an adapter that learnt the rows of new tokens is pulled away from them in the next stage.
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
import math
import tempfile
from importlib.metadata import version

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, VeraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging
from trl import DPOConfig, DPOTrainer

logging.set_verbosity_error()
disable_progress_bars()
print(*(f"{name} {version(name)}" for name in ("trl", "peft", "transformers", "torch", "datasets")))
words = ["<pad>", "<eos>", "<unk>", *(f"w{number}" for number in range(61))]
backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
data = Dataset.from_list([{"prompt": "w1 w2", "chosen": " w3 w4", "rejected": " w5 w6"}] * 4)
sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def first_step(config):
    """The loss and the rewards of the first step, at a learning rate of 0, of an adapter that has been trained."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(eos_token_id=1, pad_token_id=0, initializer_range=0.2, **sizes))
    model = get_peft_model(base, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    arguments = DPOConfig(
        tempfile.mkdtemp(dir="."),
        use_cpu=True,
        bf16=False,
        max_steps=1,
        learning_rate=0.0,
        per_device_train_batch_size=4,
        gradient_checkpointing=False,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = DPOTrainer(model, args=arguments, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    log = trainer.state.log_history[0]
    return log["loss"], log["rewards/chosen"]


layers = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
configs = {
    "LoRA of two projections": LoraConfig(**layers),
    "LoRA of the embedding, too": LoraConfig(target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM"),
    "LoRA and rows of tokens": LoraConfig(trainable_token_indices=list(range(3, 20)), **layers),
    "VeRA": VeraConfig(target_modules=["q_proj"], r=16, task_type="CAUSAL_LM"),
}
found = {name: first_step(config) for name, config in configs.items()}
for name, (loss, reward) in found.items():
    print(f"{name}: loss {loss:.4f} (log 2 is {math.log(2):.4f}), reward of the chosen answer {reward:+.4f}")
first, *others = found.values()
assert abs(first[0] - math.log(2)) < 1e-4
assert abs(first[1]) < 1e-4
assert all(abs(reward) > 1e-3 for _, reward in others), "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
