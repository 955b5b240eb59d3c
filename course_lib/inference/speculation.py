"""Speculative decoding: a draft guesses several tokens, and the model checks them all in one pass.

A pass over a few tokens costs little more than a pass over one, because both read all the weights. So a draft that
guesses well saves passes of the model. Let the draft draw a guess x from its distribution q, and let p be the model's
distribution. The guess is kept with probability min(1, p(x) / q(x)). If it is rejected, a token is drawn from the
normalised max(0, p - q). The result is distributed as p (Leviathan et al. 2023, arXiv:2211.17192, algorithm 1 and
appendix A.1). At temperature 0, a guess is kept if it is the model's likeliest token, so the text does not change.

There are two drafts. `PromptLookup` needs no model: it copies what followed the last time that the same tokens occurred
(Saxena 2023). `DraftModel` asks a smaller model with the same vocabulary. tests/inference/test_speculation.py checks
the distribution, the tokens and the published speed-ups.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from course_lib.errors import CourseError
from course_lib.inference.caches import Cache, DynamicCache, make_cache
from course_lib.inference.generate import refuse_too_long
from course_lib.inference.sampling import SamplingSettings, mark_seen
from course_lib.inference.stopping import Row, as_set, end_tokens
from course_lib.models.devices import device_of


class Draft(Protocol):
    """A source of guesses, such as `PromptLookup` or `DraftModel`."""

    def guess(
        self, tokens: Sequence[int], count: int, settings: SamplingSettings, generator: torch.Generator
    ) -> "Guess":
        """Guess the next tokens.

        Args:
            tokens: the prompt and the text so far.
            count: how many tokens to guess at most.
            settings: how the model chooses its own tokens.
            generator: the source of random numbers.

        Returns:
            The guess; it may be shorter, or empty.
        """


@dataclass
class Guess:
    """The tokens that a draft has guessed.

    Attributes:
        tokens: their ids.
        probabilities: what each was drawn from, (tokens, vocabulary); None if the draft copies.
    """

    tokens: list[int]
    probabilities: Tensor | None = None


class PromptLookup:
    """Guess that the text repeats itself: find its last tokens earlier in the text, and copy what followed there.

    Args:
        longest: the length of the longest match to look for; shorter ones are tried after it.
        shortest: the length of the shortest match.

    Raises:
        CourseError: not 1 <= shortest <= longest.

    Example:
        >>> text = [5, 6, 7, 8, 1, 5, 6]  # 5, 6 occurred before, and 7, 8 followed
        >>> PromptLookup().guess(text, 2, SamplingSettings(), torch.Generator()).tokens
        [7, 8]
    """

    def __init__(self, longest: int = 3, shortest: int = 1):
        if not 1 <= shortest <= longest:
            raise CourseError(f"Prompt lookup cannot match {shortest} to {longest} tokens: 1 <= shortest <= longest.")
        self.longest, self.shortest = longest, shortest

    def guess(self, tokens: Sequence[int], count: int, settings: SamplingSettings, generator: torch.Generator) -> Guess:
        """Copy what followed the last occurrence of the longest match.

        Args:
            tokens: the prompt and the text so far.
            count: how many tokens to guess at most.
            settings: not used, because nothing is drawn.
            generator: likewise.

        Returns:
            The guess, which is empty if nothing matches.
        """
        tokens = list(tokens)
        for length in range(min(self.longest, len(tokens) - 1), self.shortest - 1, -1):
            end = tokens[-length:]
            for start in range(len(tokens) - length - 1, -1, -1):
                if tokens[start : start + length] == end:
                    return Guess(tokens[start + length : start + length + count])
        return Guess([])


class DraftModel:
    """Let a smaller model with the same vocabulary guess, token by token. It has a cache of its own.

    Args:
        model: any model that `generate` takes.
    """

    def __init__(self, model: Any):
        self.model = model
        self._cache: DynamicCache | None = None
        self._read: list[int] = []  # the tokens in the cache

    def guess(self, tokens: Sequence[int], count: int, settings: SamplingSettings, generator: torch.Generator) -> Guess:
        """Draw `count` tokens one by one.

        Args:
            tokens: prompt and text so far.
            count: how many tokens to guess.
            settings: how the model chooses its own tokens; the draft chooses in the same way.
            generator: the source of random numbers.

        Returns:
            The guess, with the distributions that it was drawn from.
        """
        text, probabilities = list(tokens), []
        self._forget_all_but(text[:-1])
        for _ in range(count):
            logits = self._logits(text)
            seen = mark_seen([text], logits.shape[-1], logits.device) if settings.repetition_penalty != 1 else None
            p = settings.probabilities(logits, seen)  # (1, vocabulary)
            probabilities.append(p)
            text.append(int(_draw(p, settings, generator)))
        return Guess(text[len(tokens) :], torch.cat(probabilities) if probabilities else None)

    def _forget_all_but(self, tokens: list[int]) -> None:
        """Crop the cache to what it has in common with the text: the model may have turned guesses down."""
        if self._cache is None:
            self._cache = DynamicCache()
        same = 0
        while same < min(len(tokens), len(self._read)) and tokens[same] == self._read[same]:
            same += 1
        self._cache.crop(same - len(self._read))  # a number to remove, since 0 could also mean that all stay
        self._read = self._read[:same]

    def _logits(self, text: list[int]) -> Tensor:
        """The logits after the text, (1, vocabulary); reads what the cache has not yet."""
        logits = _pass(self.model, text, len(self._read), self._cache)[-1:]
        self._read = list(text)
        return logits


@dataclass
class Speculated:
    """The result of `generate_speculatively`.

    Attributes:
        tokens: the new tokens, without the end token.
        passes: the number of passes of the model, including the one over the prompt.
        guessed: how many tokens the draft guessed.
        accepted: how many of them were kept.
        accepted_by_pass: how many were kept in each pass.
    """

    tokens: list[int]
    passes: int = 0
    guessed: int = 0
    accepted: int = 0
    accepted_by_pass: list[int] = field(default_factory=list)

    @property
    def acceptance(self) -> float:
        """The share of guesses that were kept."""
        return self.accepted / self.guessed if self.guessed else 0.0


@torch.inference_mode()
def generate_speculatively(
    model: Any,
    prompt: Sequence[int],
    max_new_tokens: int,
    draft: Draft,
    *,
    guesses: int = 4,
    cache: str = "static",
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: Sequence[Sequence[int]] = (),
    eos_token_id: int | Iterable[int] | None = None,
    seed: int = 0,
) -> Speculated:
    """Continue one prompt as `generate` does, with fewer passes of the model.

    At temperature 0 the tokens are those of `generate`, unless rounding decides between two tokens, because a pass over
    several tokens adds in another order. At other temperatures the distribution is the same, but not each draw.

    Args:
        model: as for `generate`.
        prompt: the token ids, at least one.
        max_new_tokens: how many tokens to add at most.
        draft: the source of guesses.
        guesses: how many tokens the draft guesses for each pass (gamma in the paper).
        cache: the name of a cache that can be cropped: "dynamic", "static", "int8" or "paged".
        temperature: as for `generate`.
        top_k: as for `generate`.
        top_p: as for `generate`.
        min_p: as for `generate`.
        repetition_penalty: as for `generate`.
        stop: as for `generate`.
        eos_token_id: as for `generate`.
        seed: the seed of the draws.

    Returns:
        The tokens, and how many guesses were kept.

    Raises:
        CourseError: the prompt is empty, the cache cannot be cropped, or a setting is out of its range.

    Example:
        >>> from course_lib.models.config import CONFIGS
        >>> from course_lib.models.decoder import Decoder
        >>> _, model = torch.manual_seed(0), Decoder(CONFIGS["tiny-llama"]).eval()
        >>> done = generate_speculatively(model, [1, 2, 3], 6, DraftModel(model), guesses=2)
        >>> len(done.tokens), done.passes, done.acceptance  # a draft that is always right
        (6, 2, 1.0)
    """
    settings = SamplingSettings(temperature, top_k, top_p, min_p, repetition_penalty)
    _refuse_impossible(prompt, guesses, cache)
    refuse_too_long(model, len(prompt), max_new_tokens)
    kept = make_cache(cache, model, len(prompt) + max_new_tokens + guesses + 1)
    assert kept is not None
    row = Row(end_tokens(model) if eos_token_id is None else as_set(eos_token_id), stop)
    draws = torch.Generator(device_of(model)).manual_seed(seed)
    return _speculate(model, list(prompt), max_new_tokens, draft, guesses, kept, row, settings, draws)


def _refuse_impossible(prompt: Sequence[int], guesses: int, cache: str) -> None:
    """Raise CourseError for what `generate_speculatively` cannot do."""
    if not len(prompt) or guesses < 1:
        raise CourseError("Speculation needs a prompt of at least one token, and at least one guess for each pass.")
    if any(isinstance(token, list | tuple) or getattr(token, "ndim", 0) for token in prompt):
        raise CourseError(
            "Speculation continues one prompt, a list of token ids: rows would keep different numbers of guesses. "
            "Call it once for each prompt, or generate for a batch."
        )
    if cache in ("none", "sink"):
        raise CourseError(f"Speculation takes guesses back, which the cache {cache!r} cannot. Use the static one.")


def _speculate(
    model: Any,
    text: list[int],
    left: int,
    draft: Draft,
    guesses: int,
    cache: Cache,
    row: Row,
    settings: SamplingSettings,
    generator: torch.Generator,
) -> Speculated:
    """The loop: guess, check all guesses in one pass, keep what holds and one token more, until `left` are there."""
    done = Speculated([])
    while left > 0 and not row.done:
        # The pass itself yields one token more than the guesses that are kept.
        guess = draft.guess(text, min(guesses, left - 1), settings, generator) if left > 1 else Guess([])
        logits = _pass(model, text + guess.tokens, cache.get_seq_length(), cache)[-len(guess.tokens) - 1 :]
        new = _verify(logits, text, guess, settings, generator)
        done.passes += 1
        done.guessed += len(guess.tokens)
        done.accepted += len(new) - 1
        done.accepted_by_pass.append(len(new) - 1)
        text += new
        left -= len(new)
        cache.crop(len(text) - 1)  # the last token is not in the cache yet
        for token in new:
            row.add(token)
    row.finish()
    done.tokens = row.tokens
    return done


def _pass(model: Any, text: list[int], read: int, cache: Cache | None) -> Tensor:
    """Let the model read what follows the first `read` tokens. Returns its logits there, (new, vocabulary)."""
    device = device_of(model)
    tokens = torch.tensor([text[read:]], device=device)
    mask, positions = None, torch.arange(read, len(text), device=device)[None]
    if cache is not None:
        mask, positions = cache.begin(mask, positions)
    output = model(tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
    return output.logits[0]


def _verify(
    logits: Tensor, text: list[int], guess: Guess, settings: SamplingSettings, generator: torch.Generator
) -> list[int]:
    """Keep the guesses as far as they hold, and add one token of the model's own.

    Args:
        logits: the model's after the text and after each guess, (guesses + 1, vocabulary).
        text: the tokens so far.
        guess: what the draft said.
        settings: how tokens are chosen.
        generator: of the draws.

    Returns:
        From 1 to guesses + 1 new tokens.
    """
    new: list[int] = []
    for place in range(len(logits)):
        seen = None
        if settings.repetition_penalty != 1:
            seen = mark_seen([text + new], logits.shape[-1], logits.device)
        p = settings.probabilities(logits[place : place + 1], seen)  # (1, vocabulary)
        if place == len(guess.tokens):  # every guess was kept: this one is free
            new.append(int(_draw(p, settings, generator)))
            break
        x = guess.tokens[place]
        q = _one_hot(x, p) if guess.probabilities is None else guess.probabilities[place : place + 1]
        chance = torch.rand((), generator=generator, device=p.device)
        if chance * q[0, x] < p[0, x]:  # with probability min(1, p / q)
            new.append(x)
            continue
        rest = (p - q).clamp(min=0)
        new.append(int(_draw(rest if bool(rest.sum() > 0) else p, settings, generator)))
        break
    return new


def _one_hot(token: int, like: Tensor) -> Tensor:
    certain = torch.zeros_like(like)
    certain[0, token] = 1.0
    return certain


def _draw(weights: Tensor, settings: SamplingSettings, generator: torch.Generator) -> Tensor:
    """One token from (1, vocabulary) weights, which need not sum to 1."""
    if settings.temperature == 0:
        return weights.argmax()
    return torch.multinomial(weights, 1, generator=generator)


def expected_tokens(acceptance: float, guesses: int) -> float:
    """The mean number of tokens that one pass yields: (1 - a^(g + 1)) / (1 - a) (eq. 1 of arXiv:2211.17192).

    Args:
        acceptance: a, the probability that a guess is kept, assumed to be the same for each guess.
        guesses: g, the number of guesses for each pass.

    Returns:
        A number from 1 to g + 1.

    Example:
        >>> expected_tokens(0.5, guesses=2)
        1.75
    """
    if acceptance == 1:
        return guesses + 1.0
    return (1 - acceptance ** (guesses + 1)) / (1 - acceptance)


def expected_speedup(acceptance: float, guesses: int, cost: float = 0.0) -> float:
    """The expected speed-up: (1 - a^(g + 1)) / ((1 - a) (g c + 1)) (theorem 3.8 of arXiv:2211.17192).

    Args:
        acceptance: a, as for `expected_tokens`.
        guesses: g, as for `expected_tokens`.
        cost: c, the draft's time for one token divided by the model's; 0 if guessing is free.

    Returns:
        The factor; below 1, speculation makes generation slower.

    Raises:
        CourseError: a value is out of its range.

    Example:
        >>> round(expected_speedup(0.6, guesses=2), 2)  # as published
        1.96
    """
    if not 0 <= acceptance <= 1 or guesses < 0 or cost < 0:
        raise CourseError(f"Acceptance {acceptance}, {guesses} guesses, cost {cost}: from 0 to 1, and not negative.")
    return expected_tokens(acceptance, guesses) / (guesses * cost + 1)


def expected_operations(acceptance: float, guesses: int, cost: float = 0.0) -> float:
    """The factor by which the operations grow: (1 - a) (g c + g + 1) / (1 - a^(g + 1)) (theorem 3.11).

    Args:
        acceptance: a, as for `expected_tokens`.
        guesses: g, as for `expected_tokens`.
        cost: the draft's operations for one token divided by the model's.

    Returns:
        The factor, at least 1, because rejected guesses are computed in vain.
    """
    return (guesses * cost + guesses + 1) / expected_tokens(acceptance, guesses)
