"""Preference losses, rewards and margins against TRL's DPOTrainer, on the same pairs with the same adapter."""

import pytest
import torch

from course_lib.alignment import dpo_loss, reward_metrics, sequence_log_probs
from course_lib.data import IGNORE
from tiny_runs import model_folders, tokenizer  # noqa: F401 - fixtures

ROOM = "alignment"
PAIRS = [
    {"prompt": f"Question {n}: which lamp?", "chosen": f" Lamp number {n % 7}." * (1 + n % 3), "rejected": " No lamp."}
    for n in range(6)
]


@pytest.fixture
def trainer_for(model_folders, tokenizer, tmp_path):  # noqa: F811
    """trainer_for(loss_type=..., ...): TRL's trainer with LoRA whose B is random, so that the policy is no reference."""

    def make(**options):
        from datasets import Dataset
        from peft import LoraConfig
        from transformers import AutoModelForCausalLM
        from trl import DPOConfig, DPOTrainer

        model = AutoModelForCausalLM.from_pretrained(model_folders / "llama")
        trainer = DPOTrainer(
            model,
            args=DPOConfig(str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
                           **options),
            train_dataset=Dataset.from_list(PAIRS),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        )  # fmt: skip
        torch.manual_seed(0)
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.5)
        return trainer

    return make


def ours(trainer, inputs, **options):
    """Loss, rewards and reference of our code on the batch of TRL's collator."""
    mask = inputs["completion_mask"]
    labels = inputs["input_ids"].masked_fill(mask == 0, IGNORE)

    def both():
        found = sequence_log_probs(trainer.model, inputs["input_ids"], labels, attention_mask=inputs["attention_mask"])
        return found.chunk(2)

    with torch.no_grad(), trainer.model.disable_adapter():
        reference = both()
    lengths = dict(zip(("chosen_lengths", "rejected_lengths"), mask.sum(1).chunk(2), strict=True))
    return dpo_loss(*both(), *reference, **lengths, **options)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge"])
def test_loss_and_rewards_are_trls(trainer_for, parity, loss_type):
    trainer = trainer_for(loss_type=[loss_type], beta=0.3)
    inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(len(PAIRS))])
    with torch.no_grad():
        theirs = trainer._compute_loss(trainer.model, inputs, False).item()
        losses, chosen, rejected = ours(trainer, inputs, loss_type=loss_type, beta=0.3)
    logged = {key: values[-1] for key, values in trainer._metrics["train"].items()}
    metrics = reward_metrics(chosen, rejected)
    assert abs(metrics["margins"]) > 0.01
    parity.close(f"DPO loss ({loss_type})", "TRL DPOTrainer", losses.mean().item(), theirs, 1e-5, "sums of float32")
    for name, value in metrics.items():
        expected = logged[f"rewards/{name}"]
        parity.within(f"DPO {name} ({loss_type})", "TRL DPOTrainer", abs(value - expected), 1e-5,
                      "sums of float32 log-probabilities", unit="absolute")  # fmt: skip


def test_trls_sigmoid_leaves_label_smoothing_out(trainer_for):
    """TRL 1.16 takes the setting and does not use it; ours is the formula of cDPO."""
    found = []
    for smoothing in (0.0, 0.3):
        trainer = trainer_for(label_smoothing=smoothing)
        inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(len(PAIRS))])
        with torch.no_grad():
            theirs = trainer._compute_loss(trainer.model, inputs, False).item()
            losses, _, _ = ours(trainer, inputs, label_smoothing=smoothing)
        found.append((theirs, losses.mean().item()))
    (plain, our_plain), (smoothed, our_smoothed) = found
    assert smoothed == plain
    assert our_plain == pytest.approx(plain, rel=1e-5)
    assert abs(our_smoothed - our_plain) > 1e-4
