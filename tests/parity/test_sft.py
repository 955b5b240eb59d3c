"""Supervised fine-tuning against TRL's SFTTrainer: each token's loss, packed rows, and a whole curve."""

import numpy as np
import pytest
import torch

from course_lib.adapters import load_adapter
from course_lib.alignment.log_probs import log_probs_at
from course_lib.alignment.sft import Supervised, collate_packed, packed_rows
from course_lib.data import IGNORE, encode_records, pad
from course_lib.data.batching import block_diagonal
from course_lib.data.records import Record, ask, reply
from course_lib.models.pretrained import load_model
from course_lib.training import Trainer, TrainingConfig

ROOM = "alignment"
CHAT = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<eos>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TURNS = [(f"Lamp {n}?", f"{n % 7} is lit" + " and noted" * (n % 5)) for n in range(24)]
RECORDS = [Record((ask(question), reply(answer))) for question, answer in TURNS]


@pytest.fixture
def chat_tokenizer(tokenizer):
    before, tokenizer.chat_template = tokenizer.chat_template, CHAT
    yield tokenizer
    tokenizer.chat_template = before


@pytest.fixture
def trainer_for(model_folders, chat_tokenizer, tmp_path):
    """trainer_for(steps, ...): TRL's trainer on `TURNS` in their order, with LoRA, which is saved as it begins."""

    def make(**options):
        from datasets import Dataset
        from peft import LoraConfig
        from torch.utils.data import SequentialSampler
        from transformers import AutoModelForCausalLM
        from trl import SFTConfig, SFTTrainer

        torch.manual_seed(0)
        rows = [{"prompt": [ask(question)], "completion": [reply(answer)]} for question, answer in TURNS]
        common = dict(use_cpu=True, bf16=False, report_to="none", save_strategy="no", logging_steps=1)
        trainer = SFTTrainer(
            AutoModelForCausalLM.from_pretrained(model_folders / "llama"),
            args=SFTConfig(str(tmp_path / "trl"), **common, **options),
            train_dataset=Dataset.from_list(rows),
            processing_class=chat_tokenizer,
            peft_config=LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        )
        trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        trainer.model.save_pretrained(tmp_path / "adapter")
        return trainer

    return make


def our_model(model_folders, tmp_path):
    model = load_model(str(model_folders / "llama"))
    load_adapter(model, tmp_path / "adapter")
    return model


def token_losses(model, batch, mask=None):
    """-log p of each target of a batch of ours, in the order of rows and places."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch.get("attention_mask", mask)}
    if "position_ids" in batch:
        inputs["position_ids"] = batch["position_ids"]
    rows, columns = torch.nonzero(batch["labels"][:, 1:] != IGNORE, as_tuple=True)
    with torch.no_grad():
        return -log_probs_at(model, inputs, rows, columns, batch["labels"][rows, columns + 1])


def trl_losses(trainer, inputs):
    """-log p of each target, as TRL's own forward pass has it."""
    with torch.no_grad():
        log_probs = trainer.model.eval()(**inputs, fused_lm_head=True, use_cache=False).log_probs
    return -log_probs[inputs["labels"][:, 1:] != IGNORE]


def test_the_loss_of_each_token_is_trls(trainer_for, chat_tokenizer, model_folders, tmp_path, parity):
    trainer = trainer_for()
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(len(TURNS))])
    ours = pad(encode_records(RECORDS, chat_tokenizer).examples, chat_tokenizer.pad_token_id)
    ours = {key: torch.as_tensor(value) for key, value in ours.items()}
    assert torch.equal(ours["labels"], inputs["labels"])
    found, theirs = token_losses(our_model(model_folders, tmp_path), ours), trl_losses(trainer, inputs)
    assert len(theirs) > 150
    parity.within("SFT, loss of each token", "TRL SFTTrainer", (found - theirs).abs().max().item(), 1e-5,
                  "sums of float32", unit="nats")  # fmt: skip
    mean = trainer.compute_loss(trainer.model.eval(), inputs)
    assert found.mean().item() == pytest.approx(mean.item(), rel=1e-5)


def test_packed_rows_lose_what_trls_lose(trainer_for, chat_tokenizer, model_folders, tmp_path, parity):
    """TRL's "bfd" and our packing share rows differently, and give each token the loss that it has alone."""
    trainer = trainer_for(packing=True, max_length=120)
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(len(trainer.train_dataset))])
    rows = packed_rows(encode_records(RECORDS, chat_tokenizer).examples, 120, 0)
    batch = collate_packed(rows, np.arange(len(rows)), 0)
    mask = torch.as_tensor(block_diagonal(batch.pop("segment_ids")))
    batch = {key: torch.as_tensor(value) for key, value in batch.items()}
    found = token_losses(our_model(model_folders, tmp_path), batch, mask)
    theirs = trl_losses(trainer, inputs)
    assert len(found) == len(theirs)
    difference = (found.sort().values - theirs.sort().values).abs().max().item()
    parity.within("SFT packed, losses of all tokens, sorted", "TRL SFTTrainer (bfd)", difference, 1e-5,
                  "sums of float32", unit="nats")  # fmt: skip


@pytest.mark.slow
def test_the_whole_curve_is_trls(trainer_for, chat_tokenizer, model_folders, tmp_path, parity):
    steps, size = 30, 4
    # Constant rates: at a warm-up's first step transformers' rate is 0, and ours is not.
    options = dict(learning_rate=5e-3, lr_scheduler_type="constant", gradient_checkpointing=False)
    trainer = trainer_for(max_steps=steps, per_device_train_batch_size=size, **options)
    trainer.train()
    theirs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    examples = encode_records(RECORDS, chat_tokenizer).examples
    passes = [examples[i : i + size] for i in range(0, len(examples), size)] * steps
    batches = [pad(batch, chat_tokenizer.pad_token_id) for batch in passes[:steps]]
    config = TrainingConfig(lr=5e-3, schedule="constant")
    model = our_model(model_folders, tmp_path)
    records = Trainer(model, config, objective=Supervised(), log_every=0).train(batches)
    ours = [record.loss for record in records]
    assert theirs[-1] < theirs[0] - 0.05
    parity.close("SFT, 30 steps", "TRL SFTTrainer", ours, theirs, 1e-3, "float32, and AdamW's own order of operations")
