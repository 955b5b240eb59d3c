"""From logits to the next token.

Each step is one function on logits (batch, vocabulary), which sets the logits of excluded tokens to -inf.
`SamplingSettings.apply` calls them in transformers' order (5.23, `GenerationMixin._get_logits_processor`): repetition
penalty, temperature, top-k, top-p, min-p. tests/parity/test_sampling.py compares every step, and their order, with
transformers on the same logits.

Ours differs on purpose in four ways:

- `keep_top_p` keeps the token with the lowest id among equally likely ones; transformers keeps the one that its
  unstable sort puts last. Both keep equally many.
- transformers' `do_sample=True` samples from the 50 likeliest tokens, a default that no file states. Here nothing is
  excluded by default, and a temperature above 0 turns sampling on.
- transformers accepts top_p = 0 and keeps one token. Ours refuses it, because no set of tokens has probability 0.
- padding never counts as seen for the penalty (transformers 5.23 does the same in `generate`, and not in the bare
  processor).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.errors import CourseError


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens less likely that have already occurred: l / penalty for l > 0, l * penalty for l < 0.

    The penalty is that of CTRL (Keskar et al. 2019, arXiv:1909.05858, section 4.1), with the sign rule that libraries
    add, because dividing a negative logit would make it likelier. A token is penalised once, however often it occurred.

    Args:
        logits: (batch, vocabulary).
        seen: True for tokens of the prompt and of the text so far, (batch, vocabulary).
        penalty: above 1 it discourages repetition, below 1 it encourages it, and 1 changes nothing.

    Returns:
        (batch, vocabulary).

    Example:
        >>> penalise_repetition(torch.tensor([[2.0, -2.0, 1.0]]), torch.tensor([[True, True, False]]), penalty=2.0)
        tensor([[ 1., -4.,  1.]])
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Exclude all but the `top_k` likeliest tokens (Fan et al. 2018, arXiv:1805.04833).

    Tokens that are as likely as the last one stay as well, because a choice among them would be arbitrary. So more than
    `top_k` tokens can stay; in bfloat16, equal logits are common.

    Args:
        logits: (batch, vocabulary).
        top_k: how many tokens stay, at least 1.

    Returns:
        (batch, vocabulary).

    Example:
        >>> keep_top_k(torch.tensor([[1.0, 3.0, 2.0, 2.0]]), top_k=2)  # two tokens share the second place
        tensor([[-inf, 3., 2., 2.]])
    """
    last = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]  # (batch, 1)
    return logits.masked_fill(logits < last, -torch.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Exclude all but the smallest set of likeliest tokens whose probability reaches `top_p` (nucleus sampling).

    Holtzman et al. 2020, arXiv:1904.09751, section 3.1. The token that crosses `top_p` stays, so at least one
    token does. The sum runs from the least likely token up, as in transformers, so that small numbers are added first
    and none is rounded away.

    Args:
        logits: (batch, vocabulary).
        top_p: in (0, 1].

    Returns:
        (batch, vocabulary).

    Example:
        >>> keep_top_p(torch.tensor([[0.6, 0.3, 0.1]]).log(), top_p=0.8).exp()  # 0.6 alone is not enough
        tensor([[0.6000, 0.3000, 0.0000]])
    """
    # Turned round before the stable sort: among equals, the highest id comes first and is excluded first.
    rising, order = logits.flip(-1).sort(dim=-1, stable=True)
    outside = rising.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    outside[..., -1] = False  # the likeliest stays, whatever rounding says
    outside = torch.zeros_like(outside).scatter(-1, order, outside).flip(-1)
    return logits.masked_fill(outside, -torch.inf)


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """Exclude tokens whose probability is below `min_p` times that of the likeliest (Nguyen et al., arXiv:2407.01082).

    Args:
        logits: (batch, vocabulary), already divided by the temperature, so a high temperature lets more tokens in.
        min_p: in [0, 1].

    Returns:
        (batch, vocabulary).

    Example:
        >>> keep_min_p(torch.tensor([[0.6, 0.3, 0.1]]).log(), min_p=0.25).exp()  # the limit is 0.25 * 0.6
        tensor([[0.6000, 0.3000, 0.0000]])
    """
    probabilities = logits.softmax(dim=-1)
    return logits.masked_fill(probabilities < min_p * probabilities.amax(dim=-1, keepdim=True), -torch.inf)


@dataclass(frozen=True)
class SamplingSettings:
    """How the next token is chosen.

    Attributes:
        temperature: divides the logits. 0 takes the likeliest token each time; then top_k, top_p and min_p change
            nothing.
        top_k: see `keep_top_k`; 0 excludes nothing.
        top_p: see `keep_top_p`; 1 excludes nothing.
        min_p: see `keep_min_p`; 0 excludes nothing.
        repetition_penalty: see `penalise_repetition`; 1 changes nothing.

    Raises:
        CourseError: a value is out of its range.

    Example:
        >>> SamplingSettings(temperature=0.7, top_p=0.9).top_k
        0
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        ranges = {
            "temperature": (0 <= self.temperature < float("inf"), "0 or more"),
            "top_k": (self.top_k >= 0 and self.top_k == int(self.top_k), "a whole number, 0 (all tokens) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "from 0 to 1"),
            "repetition_penalty": (0 < self.repetition_penalty < float("inf"), "above 0"),
        }
        for name, (fine, wanted) in ranges.items():
            if not fine:
                raise CourseError(f"{name} is {getattr(self, name)}; it has to be {wanted}.")

    def apply(self, logits: Tensor, seen: Tensor | None = None) -> Tensor:
        """Apply all steps in order to the logits.

        Args:
            logits: (batch, vocabulary).
            seen: as for `penalise_repetition`; needed if there is a penalty.

        Returns:
            float32 (batch, vocabulary), -inf where a token is excluded.
        """
        logits = logits.float()
        if self.repetition_penalty != 1 and seen is not None:
            logits = penalise_repetition(logits, seen, self.repetition_penalty)
        if self.temperature == 0:
            return logits
        if self.temperature != 1:
            logits = logits / self.temperature
        if self.top_k:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p < 1:
            logits = keep_top_p(logits, self.top_p)
        if self.min_p:
            logits = keep_min_p(logits, self.min_p)
        return logits

    def choose(self, logits: Tensor, seen: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Choose one token for each row.

        Args:
            logits: (batch, vocabulary).
            seen: as for `apply`.
            generator: the source of random numbers (default: torch's own).

        Returns:
            Token ids, int64 (batch,).
        """
        if self.temperature == 0 and self.repetition_penalty == 1:
            return logits.argmax(dim=-1)
        logits = self.apply(logits, seen)
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(-1)

    def probabilities(self, logits: Tensor, seen: Tensor | None = None) -> Tensor:
        """The distribution that `choose` draws from; at temperature 0, the likeliest token has probability 1.

        Args:
            logits: (batch, vocabulary).
            seen: as for `apply`.

        Returns:
            (batch, vocabulary), rows that sum to 1.
        """
        logits = self.apply(logits, seen)
        if self.temperature == 0:
            return torch.zeros_like(logits).scatter(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
        return logits.softmax(dim=-1)


def mark_seen(prompts: Sequence[Sequence[int]], vocabulary: int, device: torch.device | str = "cpu") -> Tensor:
    """Mark the tokens of each prompt, for the repetition penalty.

    Args:
        prompts: the token ids of each prompt, without padding.
        vocabulary: the number of logits.
        device: the device of the result.

    Returns:
        Boolean (batch, vocabulary), True where the prompt has the token.
    """
    seen = torch.zeros(len(prompts), vocabulary, dtype=torch.bool, device=device)
    for row, prompt in zip(seen, prompts, strict=True):
        row[torch.tensor(sorted(set(prompt)), device=device)] = True
    return seen


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    top_k: int = 0,
    min_p: float = 0.0,
) -> Tensor:
    """Draw one token for each row.

    Args:
        logits: (batch, vocabulary).
        temperature: 0 takes the likeliest token. Any other number divides the logits: below 1 makes likely tokens
            likelier, and above 1 makes the choice more even.
        top_p: see `keep_top_p`.
        generator: the source of random numbers (default: torch's own).
        top_k: see `keep_top_k`.
        min_p: see `keep_min_p`.

    Returns:
        Token ids, int64 (batch,).

    Example:
        >>> sample(torch.tensor([[0.1, 2.0, 0.3]]), temperature=0)
        tensor([1])
    """
    return SamplingSettings(temperature, top_k, top_p, min_p).choose(logits, generator=generator)
