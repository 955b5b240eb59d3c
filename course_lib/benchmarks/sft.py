"""Supervised fine-tuning on real lengths: our Trainer and Decoder beside TRL's SFTTrainer, on SmolLM2 with LoRA.

Both sides take one pass over the same examples, the same ids and labels. TRL is what its documentation recommends for a
CPU: `use_cpu`, torch's attention, its fused head and fused AdamW, without the gradient checkpointing and the bfloat16
that it has on by default (`--dtype bfloat16` gives bfloat16 to both sides). Its batches are shuffled, as by default.
Ours are those of `course sft`: similar lengths together. Before anything is timed, both sides compute the losses of the
same batches, and so do they after an update: otherwise the times could not be compared.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from course_lib.benchmarks.steps import LOSS_TOLERANCE, draw_a
from course_lib.benchmarks.timing import paired
from course_lib.data import Record, encode_records, length_grouped, pad, read_records
from course_lib.data.generators import instruction_set
from course_lib.data.masking import IGNORE, Example
from course_lib.data.tokenizers import has_chat_template
from course_lib.seeding import seed_everything

RANK, ALPHA, TARGETS = 8, 16, ["q_proj", "v_proj"]
LR = 1e-4
PACKED = 512  # tokens of a row where TRL packs


def read_examples(data: Path | None, tokenizer: Any, count: int) -> list[Example]:
    """Examples in the model's chat template, or in the instruction template where it has none; the answer is trained.

    Args:
        data: a file of records; None: generated instructions, which are as long as published ones (about 58 tokens).
        tokenizer: the model's.
        count: how many, from the beginning.

    Returns:
        {"input_ids", "labels"} of each.
    """
    if data is not None:
        records = read_records(data, malformed="skip").records
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "instructions.json"
            path.write_text(json.dumps(instruction_set("train", count)), encoding="utf-8")
            records = read_records(path, "alpaca").records
    return _encoded(records[:count], tokenizer)


def _encoded(records: list[Record], tokenizer: Any) -> list[Example]:
    options: dict[str, Any] = {"too_long": "skip", "max_length": PACKED, "template": _template(tokenizer)}
    return encode_records(records, tokenizer, **options).examples


def _template(tokenizer: Any) -> str:
    return "chat" if has_chat_template(tokenizer) else "instruction"


class Ours:
    """Our Trainer with our Decoder, batches of similar lengths.

    Args:
        model: a Llama, by name or folder.
        examples: what a pass trains on.
        batch_size: examples of a step.
        dtype: of the weights, and of what is computed with them.
    """

    def __init__(self, model: str, examples: list[Example], batch_size: int, dtype: str):
        from course_lib.adapters import inject_lora, lora_layers
        from course_lib.alignment.sft import Supervised
        from course_lib.models.huggingface import load_decoder
        from course_lib.models.pretrained import resolve
        from course_lib.training import Trainer, TrainingConfig

        decoder = load_decoder(resolve(model), dtype)
        inject_lora(decoder, TARGETS, rank=RANK, alpha=ALPHA)
        draw_a(layer.A for _, layer in lora_layers(decoder))
        config = TrainingConfig(lr=LR, schedule="constant", weight_decay=0.0)
        self.trainer = Trainer(decoder.train(), config, objective=Supervised(), log_every=0)
        self.examples, self.batch_size, self.passes = examples, batch_size, 0

    def step(self, batch: dict[str, np.ndarray]) -> float:
        """One step on a batch of `pad`; its loss before the update."""
        return self.trainer.step(0, 1, [batch]).loss

    def one_pass(self) -> None:
        """Train on every example once."""
        self.passes += 1
        lengths = [len(example["labels"]) for example in self.examples]
        for chosen in length_grouped(lengths, self.batch_size, seed=self.passes):
            self.step(pad([self.examples[i] for i in chosen], 0))


class Theirs:
    """TRL's SFTTrainer with PEFT, on examples that are token ids already.

    Args:
        model: a Llama, by name or folder.
        examples: what a pass trains on.
        tokenizer: the model's.
        batch_size: rows of a step.
        dtype: "bfloat16": the weights, and autocast on top of it, as TRL has it by default.
        packing: TRL's own, in rows of `PACKED` tokens.
    """

    def __init__(self, model: str, examples: list[Example], tokenizer: Any, batch_size: int, dtype: str, packing: bool):
        from datasets import Dataset
        from peft import LoraConfig
        from trl.trainer.sft_config import SFTConfig
        from trl.trainer.sft_trainer import SFTTrainer

        from course_lib.models.pretrained import load_model, resolve

        seed_everything(0)
        self.folder = tempfile.TemporaryDirectory()
        self.options: dict[str, Any] = {
            "use_cpu": True,
            "bf16": dtype == "bfloat16",
            "gradient_checkpointing": False,
            "per_device_train_batch_size": batch_size,
            "packing": packing,
            "max_length": PACKED,
            "learning_rate": LR,
            "lr_scheduler_type": "constant",
            "num_train_epochs": 1,
        }
        quiet: dict[str, Any] = {
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "logging_strategy": "no",
        }
        columns = {key: [example[key] for example in examples] for key in ("input_ids", "labels")}
        self.trainer: Any = SFTTrainer(
            load_model(str(resolve(model)), dtype),
            args=SFTConfig(self.folder.name, **self.options, **quiet),
            train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM"),
        )
        draw_a(matrix for name, matrix in self.trainer.model.named_parameters() if ".lora_A." in name)

    def step(self, batch: dict[str, Any]) -> float:
        """One step of TRL's on a batch; its loss before the update."""
        trainer = self.trainer
        if trainer.optimizer is None:
            trainer.create_optimizer()
        inputs = {key: torch.as_tensor(value) for key, value in batch.items()}
        targets = (inputs["labels"][:, 1:] != IGNORE).sum()
        loss = trainer.training_step(trainer.model, inputs, targets)  # forward and backward
        nn.utils.clip_grad_norm_([p for p in trainer.model.parameters() if p.requires_grad], 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        return loss.item()

    def one_pass(self) -> None:
        """Every row once, from TRL's own loader and collator, without the time that `train` takes to set itself up."""
        self.trainer.model.train()
        for batch in self.trainer.get_train_dataloader():
            self.step(batch)


def check_same_losses(ours: Ours, theirs: Theirs, batch: dict[str, np.ndarray], tolerance: float) -> None:
    """Check that both sides have the same loss on a batch, before and after an update.

    Args:
        ours: our side.
        theirs: TRL's.
        batch: from `pad`.
        tolerance: in nats.

    Raises:
        AssertionError: the losses differ by more than the tolerance.
    """
    for number in range(2):
        a, b = ours.step(batch), theirs.step(batch)
        if abs(a - b) > tolerance:
            raise AssertionError(f"The two sides compute different losses at step {number}: {a} and {b}.")


def bench_sft(
    threads: int,
    pairs: int,
    model: str,
    data: Path | None = None,
    examples: int = 64,
    batch_size: int = 8,
    dtype: str = "float32",
) -> tuple[dict[str, float], dict[str, Any]]:
    """Tokens per second of a pass over examples, ours and TRL's without and with its packing.

    Args:
        threads: how many threads torch may use.
        pairs: how many pairs of passes are timed, after one to warm up.
        model: a Llama, by name or folder.
        data: see `read_examples`.
        examples: of a pass.
        batch_size: examples of a step. With its packing, TRL takes one row of `PACKED` tokens.
        dtype: "float32" or "bfloat16", of both sides.

    Returns:
        Figures (tokens are real ones, without padding; a ratio above 1 says how many times as fast ours is), and the
        configuration that they belong to.

    Raises:
        AssertionError: the two sides compute different losses.
    """
    from course_lib.models.pretrained import load_tokenizer

    torch.set_num_threads(threads)
    tokenizer = load_tokenizer(model)
    rows = read_examples(data, tokenizer, examples)
    tokens = sum(len(row["labels"]) for row in rows)
    trained = sum(label != IGNORE for row in rows for label in row["labels"])
    figures = {"examples": len(rows), "mean_tokens": tokens / len(rows), "trained_share": trained / tokens}
    ours, about = Ours(model, rows, batch_size, dtype), {}
    for name, packing in (("trl", False), ("trl_packed", True)):
        theirs = Theirs(model, rows, tokenizer, 1 if packing else batch_size, dtype, packing)
        if not packing:
            check_same_losses(ours, theirs, pad(rows[:batch_size], 0), LOSS_TOLERANCE[dtype])
        figures |= _compare(name, ours.one_pass, theirs.one_pass, pairs, tokens)
        about[name] = theirs.options | {"rows": len(theirs.trainer.train_dataset)}
        del theirs  # before the next one is loaded
    return figures, about | {"ours": _about_ours(batch_size, dtype), "both": _about_both(model, data, tokenizer)}


def _compare(name: str, ours: Callable, theirs: Callable, pairs: int, tokens: int) -> dict[str, float]:
    times = paired(ours, theirs, pairs, warm_up=1)
    return {
        f"ours_beside_{name}_tokens_per_s": tokens / times.ours_s,
        f"{name}_tokens_per_s": tokens / times.theirs_s,
        f"ours_over_{name}": 1 / times.ratio,
    }


def _about_ours(batch_size: int, dtype: str) -> dict[str, Any]:
    return {"model": "course_lib's Decoder", "batches": "length_grouped", "batch_size": batch_size, "dtype": dtype}


def _about_both(model: str, data: Path | None, tokenizer: Any) -> dict[str, Any]:
    return {
        "model": model,
        "data": data.name if data else "generated instructions",
        "template": _template(tokenizer),
        "adapter": {"rank": RANK, "alpha": ALPHA, "target_modules": TARGETS},
        "optimiser": "torch's fused AdamW",
        "gradient_checkpointing": False,
    }
