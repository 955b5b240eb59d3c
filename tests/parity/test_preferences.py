"""Preference losses, rewards and margins against TRL's DPOTrainer, on the same pairs with the same adapter."""

import pytest
import torch

from course_lib.alignment.dpo import dpo_loss, reward_metrics
from course_lib.alignment.log_probs import sequence_log_probs
from course_lib.data import IGNORE

ROOM = "alignment"
PAIRS = [
    {"prompt": f"Question {n}: which lamp?", "chosen": f" Lamp number {n % 7}." * (1 + n % 3), "rejected": " No lamp."}
    for n in range(6)
]


@pytest.fixture
def trainer_for(model_folders, tokenizer, tmp_path):
    """trainer_for(loss_type=..., ...): TRL's trainer with LoRA whose B is random: the policy differs from the base."""

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


def test_our_shared_rows_and_our_lora_give_trls_numbers(trainer_for, model_folders, tmp_path, parity):
    """TRL's tokens, our LoRA from PEFT's file, prompts computed once: the same loss and rewards."""
    from course_lib.adapters import load_adapter
    from course_lib.alignment.objective import PreferenceObjective, evaluate_preferences
    from course_lib.alignment.reference import AdapterOff
    from course_lib.models.pretrained import load_model

    trainer = trainer_for(beta=0.3)
    trainer.model.save_pretrained(tmp_path / "adapter")
    rows = list(trainer.train_dataset)
    inputs = trainer.data_collator(rows)
    with torch.no_grad():
        theirs = trainer._compute_loss(trainer.model, inputs, False).item()
    logged = {key: values[-1] for key, values in trainer._metrics["train"].items()}

    model = load_model(str(model_folders / "llama"))
    load_adapter(model, tmp_path / "adapter")
    pairs = [{part: row[f"{part}_ids"] for part in ("prompt", "chosen", "rejected")} for row in rows]
    pairs = [pair | {"input_ids": [*pair["prompt"], *pair["chosen"], *pair["rejected"]]} for pair in pairs]
    found = evaluate_preferences(model, PreferenceObjective(AdapterOff(), beta=0.3), pairs, batch_size=4)
    parity.close(
        "DPO loss, prompts computed once", "TRL DPOTrainer", found.pop("loss"), theirs, 1e-5, "sums of float32"
    )
    for name, value in found.items():
        difference = abs(value - logged[f"rewards/{name}"])
        parity.within(f"DPO {name}, prompts computed once", "TRL DPOTrainer", difference, 1e-5,
                      "sums of float32 log-probabilities", unit="absolute")  # fmt: skip


def test_our_tokens_are_trls(trainer_for, tokenizer):
    """A text for a prompt has no template of ours, so the two tokenisations are compared on chat pairs."""
    from datasets import Dataset

    from course_lib.alignment.pairs import encode_pairs
    from course_lib.data.records import Record, ask, reply

    chat = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<eos>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer.chat_template, before = chat, tokenizer.chat_template
    try:
        turns = [(f"Lamp {n}?", f"{n} is lit" * n, f"no {n}") for n in range(1, 6)]
        records = [Record((ask(q), reply(c)), rejected=r) for q, c, r in turns]
        rows = Dataset.from_list([
            {"prompt": [ask(q)], "chosen": [reply(c)], "rejected": [reply(r)]} for q, c, r in turns
        ])  # fmt: skip
        trainer = trainer_for()
        theirs = trainer._prepare_dataset(rows, tokenizer, trainer.args, "train")
        ours = encode_pairs(records, tokenizer).pairs
        for our, their in zip(ours, theirs, strict=True):
            assert [our[part] for part in ("prompt", "chosen", "rejected")] == [
                their[f"{part}_ids"] for part in ("prompt", "chosen", "rejected")
            ]
    finally:
        tokenizer.chat_template = before
