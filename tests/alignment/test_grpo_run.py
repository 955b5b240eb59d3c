"""The GRPO loop on a tiny model: what a batch holds, its gradient, and that the reward rises."""

import pytest
import torch

from course_lib.alignment.grpo_run import GroupRelative, Rollouts, token_log_probs, train_grpo
from course_lib.alignment.log_probs import sequence_log_probs
from course_lib.errors import CourseError
from course_lib.models.config import DecoderConfig
from course_lib.models.decoder import Decoder
from course_lib.training import TrainingConfig

PROMPTS = [[1, 2, 3], [4, 5]]
WANTED = {10, 11, 12, 13}


def policy():
    torch.manual_seed(0)
    return Decoder(DecoderConfig("llama", 24, 32, 1, 2, 32, 64))


def wanted(number, tokens):
    """The share of wanted tokens."""
    return sum(token in WANTED for token in tokens) / max(len(tokens), 1)


def rollouts(model, reward=wanted, **options):
    settings = dict(steps=3, group_size=4, prompts_per_step=2, max_new_tokens=6, eos_token_id=0) | options
    return Rollouts(model, PROMPTS, reward, **settings)


def test_a_batch_has_groups_side_by_side_and_labels_on_the_completions():
    batch = rollouts(policy())[0]
    assert batch["input_ids"].shape[0] == 8
    assert batch["input_ids"][:4, :3].tolist() == [[1, 2, 3]] * 4
    assert batch["input_ids"][4:, :2].tolist() == [[4, 5]] * 4
    assert (batch["labels"][:4, :3] == -100).all()
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        assert (labels == ids)[labels != -100].all()
        answer = labels[labels != -100].tolist()
        assert len(answer) == 6 or answer[-1] == 0  # cut, or ended by the end token, which is trained too
        assert 0 not in answer[:-1]
        assert (labels[mask == 0] == -100).all()
    assert batch["advantages"].view(2, 4).sum(1).abs().max() < 1e-5


def test_the_same_seed_samples_the_same_and_every_step_anew():
    one, other = rollouts(policy()), rollouts(policy())
    assert torch.equal(one[0]["input_ids"], other[0]["input_ids"])
    assert not torch.equal(one[0]["labels"], one[1]["labels"])
    assert len(one.rewards) == 3


def test_token_log_probs_add_up_to_those_of_the_sequence():
    model = policy()
    batch = rollouts(model)[0]
    found, mask = token_log_probs(model, batch)
    whole = sequence_log_probs(model, batch["input_ids"], batch["labels"], attention_mask=batch["attention_mask"])
    assert torch.allclose(found.sum(1), whole, atol=1e-5)
    assert torch.equal(mask.sum(1), (batch["labels"] != -100).sum(1))


def test_the_gradient_is_that_of_advantages_times_log_probs():
    model = policy()
    batch = rollouts(model)[0]
    objective = GroupRelative()
    objective.loss(model, batch, 1 / objective.count(batch)).backward()
    found = model.model.embed_tokens.weight.grad.clone()
    model.zero_grad()
    log_probs, mask = token_log_probs(model, batch)
    (-batch["advantages"] * log_probs.sum(1) / mask.sum(1)).mean().backward()
    assert torch.allclose(found, model.model.embed_tokens.weight.grad, atol=1e-6)
    assert objective.report()["reward"] == pytest.approx(batch["rewards"].mean().item())
    assert objective.report() == {}


def test_the_reward_rises():
    model = policy()
    records = train_grpo(
        model, PROMPTS, wanted, steps=40, group_size=8, prompts_per_step=2, max_new_tokens=6, lr=1e-2, seed=1
    )
    rewards = [record.metrics["reward"] for record in records]
    assert sum(rewards[:3]) / 3 < 0.35  # 4 of 24 tokens are wanted
    assert sum(rewards[-5:]) / 5 > 0.8
    assert all(abs(record.loss) < 1e-5 for record in records)  # judge such a run by its rewards, never by its loss


def test_equal_rewards_change_nothing():
    model = policy()
    before = [parameter.clone() for parameter in model.parameters()]
    train_grpo(model, PROMPTS, lambda number, tokens: 1.0, steps=2, group_size=2, max_new_tokens=4, lr=1e-2)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("prompts", "options", "said"),
    [
        ([], {}, "0 prompts"),
        (PROMPTS, {"group_size": 1}, "group_size=1"),
        (PROMPTS, {"steps": 0}, "steps=0"),
        (PROMPTS, {"config": TrainingConfig(lr=1e-3, grad_accum_steps=2)}, "leave grad_accum_steps"),
    ],
)
def test_what_is_refused(prompts, options, said):
    with pytest.raises(CourseError, match=said):
        train_grpo(policy(), prompts, wanted, **options)
