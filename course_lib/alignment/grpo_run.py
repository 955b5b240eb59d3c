"""A short GRPO run: in each step, sample a group of completions for each prompt, reward them, and update the policy.

Each batch of completions is used for one update, so the policy that wrote it is the one that is updated. The ratio of
`grpo_loss` is 1, and nothing is clipped. Left out: several updates from one batch, a reference with its KL term, and
sampling at a temperature other than 1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.alignment.grpo import group_advantages, grpo_loss
from course_lib.alignment.log_probs import log_probs_at
from course_lib.data.masking import IGNORE
from course_lib.errors import CourseError
from course_lib.inference import generate
from course_lib.models.modes import evaluating
from course_lib.seeding import seed_everything
from course_lib.training import StepRecord, Trainer, TrainingConfig

Reward = Callable[[int, list[int]], float]  # the number of a prompt, and the tokens of a completion


class Rollouts(Sequence):
    """The batches of a run. Each is sampled when it is asked for, from the policy as it is then.

    Args:
        model: the policy.
        prompts: the token ids of each.
        reward: judges a completion.
        steps: the number of batches.
        group_size: the number of completions of a prompt.
        prompts_per_step: the number of prompts in a batch; the prompts are taken in turn.
        max_new_tokens: the largest number of tokens of a completion.
        eos_token_id: the token that ends a completion, and is trained as well; None for no such token.
        seed: the seed of the draws.
        scale: see `group_advantages`.

    Raises:
        CourseError: the list of prompts is empty, or a number is too small.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[Sequence[int]],
        reward: Reward,
        steps: int,
        group_size: int,
        prompts_per_step: int,
        max_new_tokens: int,
        eos_token_id: int | None = None,
        seed: int = 0,
        scale: str = "group",
    ):
        if not prompts or min(steps, prompts_per_step, max_new_tokens) < 1 or group_size < 2:
            raise CourseError(
                f"{len(prompts)} prompts, steps={steps}, prompts_per_step={prompts_per_step}, max_new_tokens="
                f"{max_new_tokens}, group_size={group_size}: a group has at least 2 completions, and the others are at "
                "least 1."
            )
        self.model, self.prompts, self.reward = model, [list(prompt) for prompt in prompts], reward
        self.steps, self.group_size, self.prompts_per_step = steps, group_size, prompts_per_step
        self.max_new_tokens, self.eos_token_id, self.seed, self.scale = max_new_tokens, eos_token_id, seed, scale
        self.rewards: list[float] = []  # the mean of each batch that was sampled

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: Any) -> Any:
        """Sample, reward, compare within groups: the batch of one step."""
        first = index * self.prompts_per_step
        chosen = [(first + i) % len(self.prompts) for i in range(self.prompts_per_step)]
        numbers = [number for number in chosen for _ in range(self.group_size)]  # a prompt's completions side by side
        completions = self._sample(numbers, index)
        rewards = torch.tensor([float(self.reward(n, c)) for n, c in zip(numbers, completions, strict=True)])
        self.rewards.append(rewards.mean().item())
        batch = self._collate(numbers, completions)
        return batch | {"advantages": group_advantages(rewards, self.group_size, self.scale), "rewards": rewards}

    def _sample(self, numbers: list[int], index: int) -> list[list[int]]:
        """One completion for each number of a prompt, without the token that ends it."""
        prompts, ends = [self.prompts[number] for number in numbers], self.eos_token_id
        with evaluating(self.model):
            return generate(
                self.model,
                prompts,
                self.max_new_tokens,
                temperature=1.0,
                eos_token_id=() if ends is None else ends,
                seed=self.seed * 100_003 + index,
            )

    def _collate(self, numbers: list[int], completions: list[list[int]]) -> dict[str, Tensor]:
        """Prompts and completions as rows, padded on the right; labels are the completions' tokens, else IGNORE."""
        rows, answers = [], []
        for number, completion in zip(numbers, completions, strict=True):
            ended = self.eos_token_id is not None and len(completion) < self.max_new_tokens
            answer = [*completion, self.eos_token_id] if ended else completion
            rows.append([*self.prompts[number], *answer])
            answers.append(answer)
        shape = (len(rows), max(map(len, rows)))
        ids, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORE)
        mask = torch.zeros(shape, dtype=torch.long)
        for place, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            ids[place, : len(row)], mask[place, : len(row)] = torch.tensor(row), 1
            if answer:
                labels[place, len(row) - len(answer) : len(row)] = torch.tensor(answer)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class GroupRelative:
    """`grpo_loss` for the Trainer, on batches of `Rollouts`.

    Args:
        normalisation: see `grpo_loss`: "grpo" averages within each completion, and then over completions.
    """

    def __init__(self, normalisation: str = "grpo"):
        self.normalisation = normalisation
        self.seen: list[Tensor] = []  # the rewards of each micro-batch since the last report

    def count(self, batch: dict[str, Tensor]) -> int:
        """The number of completions in a batch."""
        return len(batch["labels"])

    def loss(self, model: nn.Module, batch: dict[str, Tensor], weight: float) -> Tensor:
        """`weight` times the completions' losses.

        Args:
            model: the policy.
            batch: see `Rollouts`.
            weight: one over the completions of the whole step.

        Returns:
            A scalar. It is near 0 in every step, because advantages add up to 0; its gradient is not.
        """
        policy, mask = token_log_probs(model, batch)
        self.seen.append(batch["rewards"])
        loss = grpo_loss(policy, policy.detach(), batch["advantages"], mask, normalisation=self.normalisation)
        return weight * len(mask) * loss

    def report(self) -> dict[str, float]:
        """The mean reward, and the share of completions with the highest reward of the batch."""
        if not self.seen:
            return {}
        rewards, self.seen = torch.cat(self.seen), []
        return {"reward": rewards.mean().item(), "best": (rewards == rewards.max()).float().mean().item()}


def token_log_probs(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """log p of every token of the completions.

    Args:
        model: the policy.
        batch: "input_ids", "attention_mask" and "labels", (completions, time) each.

    Returns:
        The log-probabilities, (completions, time - 1), with a gradient, and 0 outside the completions; and the mask, 1
        for tokens of the completions and 0 outside.
    """
    targets = batch["labels"][:, 1:]  # position t predicts token t + 1
    mask = targets != IGNORE
    rows, columns = torch.nonzero(mask, as_tuple=True)  # (count,)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    found = log_probs_at(model, inputs, rows, columns, targets[rows, columns])
    policy = found.new_zeros(mask.shape).index_put((rows, columns), found)  # (completions, time - 1)
    return policy, mask.long()


def train_grpo(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    reward: Reward,
    *,
    steps: int = 50,
    group_size: int = 8,
    prompts_per_step: int = 4,
    max_new_tokens: int = 32,
    lr: float = 1e-4,
    eos_token_id: int | None = None,
    seed: int = 0,
    config: TrainingConfig | None = None,
    log_every: int = 0,
) -> list[StepRecord]:
    """Train a policy in place on rewards that a program gives.

    Args:
        model: a causal language model; weights that do not require gradients are not changed.
        prompts: the token ids of each prompt.
        reward: gets the number of a prompt and the tokens of a completion without its end token, and returns a number.
        steps: the number of updates.
        group_size: the number of completions of a prompt.
        prompts_per_step: the number of prompts in an update.
        max_new_tokens: the largest number of tokens of a completion.
        lr: the constant learning rate.
        eos_token_id: the token that ends a completion; without it, every completion has max_new_tokens.
        seed: the seed of the draws.
        config: all settings of the steps, which replace lr.
        log_every: how many steps lie between printed lines; 0 for none.

    Returns:
        The record of each step; its metrics contain the mean reward.

    Raises:
        CourseError: the list of prompts is empty, or a number is too small.

    Example:
        >>> from course_lib.models.config import CONFIGS
        >>> from course_lib.models.decoder import Decoder
        >>> model = Decoder(CONFIGS["tiny-llama"])
        >>> def even(prompt, tokens):  # rewards completions with many even tokens
        ...     return sum(token % 2 == 0 for token in tokens) / 4
        >>> log = train_grpo(model, [[1, 2], [3]], even, steps=2, group_size=4, prompts_per_step=2, max_new_tokens=4)
        >>> len(log), sorted(log[0].metrics)
        (2, ['best', 'reward'])
    """
    batches = Rollouts(model, prompts, reward, steps, group_size, prompts_per_step, max_new_tokens, eos_token_id, seed)
    config = config or TrainingConfig(lr=lr, schedule="constant")
    if config.grad_accum_steps != 1 or config.tokens_per_step is not None:
        raise CourseError("A step of GRPO is one batch of completions: leave grad_accum_steps and tokens_per_step out.")
    seed_everything(seed)  # dropout
    return Trainer(model, config, objective=GroupRelative(), log_every=log_every).train(batches)
