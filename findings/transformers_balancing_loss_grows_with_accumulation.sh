#!/usr/bin/env bash
# Trainer weighs a mixture of experts' balancing loss by the number of accumulated micro-batches.
#
# Package: transformers 5.23.0, with torch 2.13.0 and accelerate 1.15.0 (Trainer, MixtralForCausalLM with
#   output_router_logits=True).
# Guess: eight rows in one batch and eight micro-batches of one row give the same gradient up to rounding, since
#   Trainer counts the step's targets for that.
# Behaviour: the cross entropy is divided by the targets of the whole step, and Trainer does not divide again. The
#   balancing loss (router_aux_loss_coef) is added to it whole by every micro-batch. With eight micro-batches it weighs
#   eight times as much as with one batch, without a word. Trainer logs it so, too. TRL's SFTTrainer divides it.
# Here: the accumulation fits a recipe to the memory at hand. With a mixture of experts it changes what is trained.
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
from transformers import MixtralConfig, MixtralForCausalLM, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
print(*(f"{name} {version(name)}" for name in ("transformers", "torch", "accelerate")))
sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
generator = torch.Generator().manual_seed(0)
row = torch.randint(64, (8,), generator=generator)
rows = [{"input_ids": row, "labels": row}] * 8  # equal rows, so that the balancing loss is equal in all of them


class Gradient(TrainerCallback):
    """Keeps the gradient of the step."""

    def on_pre_optimizer_step(self, args, state, control, model, **others):
        self.value = torch.cat([p.grad.flatten() for p in model.parameters()])


def gradient(micro_batches, coefficient):
    """The gradient of one step over the eight rows, cut into micro-batches."""
    torch.manual_seed(0)
    heads = {"num_key_value_heads": 2, "num_local_experts": 4, "output_router_logits": True}
    model = MixtralForCausalLM(MixtralConfig(router_aux_loss_coef=coefficient, **heads, **sizes))
    arguments = TrainingArguments(
        tempfile.mkdtemp(dir="."),
        max_steps=1,
        per_device_train_batch_size=8 // micro_batches,
        gradient_accumulation_steps=micro_batches,
        max_grad_norm=0,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
    )
    kept = Gradient()
    Trainer(model, arguments, train_dataset=rows, callbacks=[kept]).train()
    return kept.value


plain = {parts: gradient(parts, 0.0) for parts in (1, 8)}
balancing = {parts: gradient(parts, 0.1) - plain[parts] for parts in (1, 8)}
cross_entropy = (plain[8].norm() / plain[1].norm()).item()
ratio = (balancing[8].norm() / balancing[1].norm()).item()
print(f"8 micro-batches against 1 batch: the cross entropy's gradient is {cross_entropy:.3f} times as long,")
print(f"  the balancing loss's {ratio:.3f} times")
assert abs(cross_entropy - 1) < 1e-3
assert abs(ratio - 8) < 0.1, "the behaviour has changed"
PYTHON
cd "$folder"
if HF_HUB_OFFLINE=1 "$folder/env/bin/python" -W ignore "$folder/check.py"; then
  echo "as stated"
else
  echo "changed"
  exit 1
fi
