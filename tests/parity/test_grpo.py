"""GRPO's loss and advantages against TRL's GRPOTrainer on completions of its own."""

import pytest
import torch

from course_lib.alignment.grpo import group_advantages, grpo_loss

ROOM = "alignment"


@pytest.fixture
def trainer_for(model_folders, tokenizer, tmp_path):
    """trainer_for(loss_type=..., beta=...): TRL's trainer, whose model has moved since it began."""

    def make(**options):
        from datasets import Dataset
        from transformers import AutoModelForCausalLM
        from trl import GRPOConfig, GRPOTrainer

        args = GRPOConfig(
            str(tmp_path), use_cpu=True, bf16=False, report_to="none", num_generations=4, max_completion_length=8,
            per_device_train_batch_size=8, temperature=1.0, **options,
        )  # fmt: skip
        # A folder and not a model, so that a reference can be loaded by its name.
        trainer = GRPOTrainer(
            str(model_folders / "llama"),
            reward_funcs=lambda completions, **_: [float(len(set(text)) % 5) for text in completions],
            args=args,
            train_dataset=Dataset.from_list([{"prompt": f"Lamp {n}"} for n in range(8)]),
            processing_class=tokenizer,
        )
        assert isinstance(trainer.model, AutoModelForCausalLM.from_pretrained(model_folders / "llama").__class__)
        return trainer

    return make


def trl_batch(trainer):
    """TRL's completions with their rewards and advantages, and a model that has moved since it wrote them."""
    torch.manual_seed(0)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer._generate_and_score_completions([{"prompt": f"Lamp {n // 4}"} for n in range(8)])
    before, _ = token_log_probs(trainer, inputs)
    inputs["old_per_token_logps"] = before
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return inputs


def token_log_probs(trainer, inputs):
    """log p of each token of the completions under the model as it is, and its mask."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    kept = inputs["completion_ids"].size(1)
    with torch.no_grad():
        logits = trainer.model(input_ids=ids, attention_mask=mask).logits[:, -kept - 1 : -1]
    found = logits.log_softmax(-1).gather(2, inputs["completion_ids"][..., None])[..., 0]
    return found, inputs["completion_mask"]


@pytest.mark.parametrize(
    ("loss_type", "beta", "unbiased"),
    [("grpo", 0.0, True), ("grpo", 0.2, True), ("grpo", 0.2, False)]
    + [(name, 0.0, True) for name in ("bnpo", "dapo", "dr_grpo")],
)
def test_the_loss_is_trls(trainer_for, parity, loss_type, beta, unbiased):
    trainer = trainer_for(loss_type=loss_type, beta=beta, use_bias_correction_kl=unbiased)
    inputs = trl_batch(trainer)
    with torch.no_grad():
        theirs = trainer._compute_loss(trainer.model, inputs).item()
    policy, mask = token_log_probs(trainer, inputs)
    ours = grpo_loss(
        policy,
        inputs["old_per_token_logps"],
        inputs["advantages"],
        mask,
        inputs.get("ref_per_token_logps"),
        beta,
        normalisation=loss_type,
        max_length=8,
        unbiased_kl=unbiased,
    )
    assert abs(theirs) > 1e-3
    what = f"GRPO loss ({loss_type}, beta {beta}, unbiased KL {unbiased})"
    why = "a sum of float32 in which positive and negative advantages nearly cancel"
    parity.close(what, "TRL GRPOTrainer", ours.item(), theirs, 1e-5, why)


def test_the_advantages_are_trls(trainer_for, tokenizer, parity):
    trainer = trainer_for()
    inputs = trl_batch(trainer)
    texts = tokenizer.batch_decode(inputs["completion_ids"], skip_special_tokens=True)
    rewards = torch.tensor([float(len(set(text)) % 5) for text in texts])
    ours = group_advantages(rewards, 4)
    assert ours.abs().max() > 0.5
    parity.close("GRPO advantages", "TRL GRPOTrainer", ours, inputs["advantages"], 1e-5, "float32")
