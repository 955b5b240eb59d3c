#!/usr/bin/env bash
# TRL casts a quantised model's adapters to bfloat16; at a small learning rate most of lora_A stands still.
#
# Package: trl 1.16.0, with peft 0.21.2, transformers 5.23.0, bitsandbytes 0.50.2, torch 2.13.0 and datasets 5.2.0
#   (SFTTrainer).
# Guess: adapters are float32, as PEFT makes them (autocast_adapter_dtype), whatever the base's bits; bf16=False keeps
#   the trainer from changing that.
# Behaviour: the trainer turns all trainable weights of a quantised model to bfloat16 in place, whatever bf16 says, and
#   AdamW keeps its moments in it, too. An update smaller than half a step of bfloat16 is lost: at a learning rate of
#   1e-5, 96 % of the entries of lora_A have not moved after twenty steps; with the same base in float32 all have.
# Here: the same recipe trains another thing in QLoRA than in LoRA, and the quantisation gets the blame.
set -euo pipefail
packages=(trl==1.16.0 peft==0.21.2 transformers==5.23.0 bitsandbytes==0.50.2 torch==2.13.0 datasets==5.2.0)
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
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, PreTrainedTokenizerFast
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

logging.set_verbosity_error()
logging.disable_progress_bar()
disable_progress_bars()
print(*(f"{name} {version(name)}" for name in ("trl", "peft", "transformers", "bitsandbytes", "torch", "datasets")))
words = ["<pad>", "<eos>", "<unk>", *(f"w{number}" for number in range(61))]
backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
data = Dataset.from_list([{"text": "w1 w2 w3 w4 w5"}] * 80)
sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128}
sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4}
folder = tempfile.mkdtemp(dir=".")
AutoModelForCausalLM.from_config(LlamaConfig(eos_token_id=1, pad_token_id=0, **sizes)).save_pretrained(folder)


def moved(quantised):
    """Types of the adapter before and inside the trainer, and the share of lora_A's entries that have moved."""
    torch.manual_seed(0)
    options = {"dtype": torch.float32}
    if quantised:
        options = {"quantization_config": BitsAndBytesConfig(load_in_4bit=True), "device_map": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    if quantised:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    model = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    adapter = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    before = {str(parameter.dtype) for parameter in adapter.values()}
    arguments = SFTConfig(
        tempfile.mkdtemp(dir="."),
        use_cpu=True,
        bf16=False,
        max_steps=20,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        per_device_train_batch_size=4,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = SFTTrainer(model, args=arguments, train_dataset=data, processing_class=tokenizer)
    inside = {str(parameter.dtype) for parameter in adapter.values()}
    first = {name: parameter.detach().clone() for name, parameter in adapter.items() if "lora_A" in name}
    trainer.train()
    changed = sum((adapter[name] != tensor).sum().item() for name, tensor in first.items())
    return before, inside, changed / sum(tensor.numel() for tensor in first.values())


found = {name: moved(quantised) for name, quantised in (("float32 base", False), ("4-bit base", True))}
for name, (before, inside, share) in found.items():
    print(f"{name}: adapter {before} before, {inside} in the trainer; {share:.0%} of lora_A's entries moved")
assert found["float32 base"][1] == found["4-bit base"][0] == {"torch.float32"}
assert found["float32 base"][2] > 0.9
assert found["4-bit base"][1] == {"torch.bfloat16"}, "the behaviour has changed"
assert found["4-bit base"][2] < 0.25, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
