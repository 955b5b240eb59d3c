"""The generate loop: one forward pass for each new token, with a cache of keys and values.

`generate` returns token ids, `complete` returns texts, and `stream` yields pieces of one text as they come. All three
use the loop `decode_steps`. tests/parity/test_generate.py compares it with transformers' `generate`, token by token.

Left out: beam search, and processors of logits beyond `sampling`.
"""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.data.tokenizers import ModelTokenizer
from course_lib.errors import CourseError
from course_lib.inference.caches import Cache, PagedCache, SinkCache, make_cache
from course_lib.inference.sampling import SamplingSettings, mark_seen
from course_lib.inference.stopping import Row, as_set, end_tokens
from course_lib.models.devices import device_of

Prompts = Sequence[Sequence[int]]


def generate(
    model: nn.Module,
    prompts: Prompts,
    max_new_tokens: int,
    *,
    cache: str | Cache = "static",
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: Sequence[Sequence[int]] = (),
    eos_token_id: int | Iterable[int] | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """Continue each prompt (token ids) by at most `max_new_tokens` tokens.

    Prompts of unequal length are padded on the left and get their true positions, so a row has the same result alone
    and in a batch (tests/parity/test_generate.py). Unlike transformers, this function has no default length, and it
    samples only at a temperature above 0.

    Args:
        model: a transformers model, our decoder, or a model from `prepare`.
        prompts: the token ids of each prompt; there is at least one prompt.
        max_new_tokens: how many tokens to add at most.
        cache: "none", "dynamic", "static", "int8", "paged" or "sink" (see `caches`), or an empty cache.
        temperature: 0 takes the likeliest token each time; see `SamplingSettings` for this and the next four.
        top_k: how many of the likeliest tokens to draw from; 0 for all.
        top_p: the total probability of the tokens to draw from.
        min_p: the smallest probability to draw from, relative to that of the likeliest token.
        repetition_penalty: a number above 1 makes tokens of prompt and text less likely.
        stop: token sequences at which a row ends.
        eos_token_id: one end token or several, at which a row stops; None for those of the model, () for none.
        seed: the seed of the draws.

    Returns:
        The new tokens of each prompt, without the end token or stop sequence.

    Raises:
        CourseError: a prompt is empty or does not fit into the model's positions, a setting is out of its range, or the
            cache holds another text.

    Example:
        >>> from course_lib.models.config import CONFIGS
        >>> from course_lib.models.decoder import Decoder
        >>> model = Decoder(CONFIGS["tiny-llama"]).eval()
        >>> [len(row) for row in generate(model, [[1, 2, 3], [4]], max_new_tokens=5)]
        [5, 5]
    """
    settings = SamplingSettings(temperature, top_k, top_p, min_p, repetition_penalty)
    ends = end_tokens(model) if eos_token_id is None else as_set(eos_token_id)
    _refuse_empty(prompts)
    if _takes_one_row(cache) and len(set(map(len, prompts))) > 1:
        # Padding would stand where the sinks are to be: each row by itself.
        alone = {"cache": cache, "stop": stop, "eos_token_id": ends, "seed": seed} | vars(settings)
        return [generate(model, [prompt], max_new_tokens, **alone)[0] for prompt in prompts]
    rows = [Row(ends, stop) for _ in prompts]
    for _ in decode_steps(model, prompts, max_new_tokens, rows, settings, cache, seed):
        pass
    return [row.tokens for row in rows]


def _refuse_empty(prompts: Prompts) -> None:
    if not len(prompts) or not all(len(prompt) for prompt in prompts):
        raise CourseError("generate needs at least one prompt, and each prompt at least one token.")


def _takes_one_row(cache: str | Cache) -> bool:
    return cache == "sink" or isinstance(cache, SinkCache)


@torch.inference_mode()
def decode_steps(
    model: Any,
    prompts: Prompts,
    max_new_tokens: int,
    rows: Sequence[Row],
    settings: SamplingSettings,
    cache: str | Cache = "static",
    seed: int = 0,
) -> Iterator[list[list[int]]]:
    """The loop: one pass over the prompts, then one pass for each new token of all rows, until every row has ended.

    Args:
        model: as for `generate`.
        prompts: as for `generate`.
        max_new_tokens: as for `generate`.
        rows: one for each prompt; they collect the tokens and say when a row has ended.
        settings: how the next token is chosen.
        cache: as for `generate`.
        seed: the seed of the draws.

    Yields:
        After each step, the tokens that have become certain in each row.

    Raises:
        CourseError: the text would be too long for the model, or the cache holds another text.
    """
    longest = max(map(len, prompts))
    refuse_too_long(model, longest, max_new_tokens)
    device = device_of(model)
    kept = make_cache(cache, model, longest + max_new_tokens) if isinstance(cache, str) else cache
    if kept is not None and kept.get_seq_length():
        raise CourseError(
            f"The cache that generate was given holds {kept.get_seq_length()} tokens of another text, which the model "
            "would read as the beginning of this one. Make a new cache for each call."
        )
    state = _State(model, kept, *_pad_left(prompts, max_new_tokens, device))
    generator = torch.Generator(device).manual_seed(seed)
    seen = None
    for step in range(max_new_tokens):
        logits = state.read(longest if step == 0 else 1)  # (batch, vocabulary)
        if settings.repetition_penalty != 1 and seen is None:
            seen = mark_seen(prompts, logits.shape[-1], device)
        chosen = settings.choose(logits, seen, generator)  # (batch,)
        if seen is not None:
            seen.scatter_(1, chosen[:, None], True)
        fresh = [row.add(token) for row, token in zip(rows, chosen.tolist(), strict=True)]
        if step == max_new_tokens - 1:  # nothing comes after these, so nothing need be held back
            fresh = [now + row.finish() for now, row in zip(fresh, rows, strict=True)]
        yield fresh
        if all(row.done for row in rows):
            return
        state.append(chosen)


class _State:
    """The tokens so far with their mask and positions, and the cache: what the next forward pass is told.

    Memory for all of it is set aside once. Without padding there is no mask, which lets kernels take their fast path.

    Args:
        model: as for `generate`.
        cache: an empty cache, or None to compute everything anew in each pass.
        tokens: (batch, longest prompt + new tokens), filled up to the prompts' end.
        mask: 1 for tokens and those to come, 0 for padding, like tokens.
        length: the longest prompt.
    """

    def __init__(self, model: Any, cache: Cache | None, tokens: Tensor, mask: Tensor, length: int):
        self.model, self.cache, self.tokens, self.length = model, cache, tokens, length
        self.mask = mask if not bool(mask.all()) else None
        self.positions = (mask.cumsum(-1) - 1).clamp(min=0)  # 0 at each prompt's first token
        # Only the last token's logits are used: those of a long prompt would take gigabytes.
        takes = inspect.signature(getattr(model, "forward", model)).parameters
        self.last_logits = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def append(self, chosen: Tensor) -> None:
        """Add a token to each row, (batch,)."""
        self.tokens[:, self.length] = chosen
        self.length += 1

    def read(self, new: int) -> Tensor:
        """Let the model read the last `new` tokens of each row.

        Returns:
            The logits after the last one, (batch, vocabulary).
        """
        if self.cache is None:
            return self._pass(0, self.length)
        start = self.length - new
        if isinstance(self.cache, PagedCache) and start == 0:
            start = self._read_shared_beginning(self.cache)
        block = self.length - start
        if self.cache.longest_block is not None and start == 0 and block > self._room():
            block = self.cache.longest_block  # a prompt longer than the cache keeps: in parts, as a text would come
        logits = None
        for first in range(start, self.length, block):
            logits = self._pass(first, min(first + block, self.length))
        assert logits is not None
        return logits

    def _room(self) -> int:
        """The tokens that an evicting cache takes before it evicts."""
        if isinstance(self.cache, PagedCache) and self.cache.max_pages is not None:
            return self.cache.max_pages * self.cache.page_size
        return self.cache.longest_block if self.cache is not None and self.cache.longest_block else self.length

    def _read_shared_beginning(self, cache: PagedCache) -> int:
        """Read what all rows begin with once, and let them share its pages. Returns how many tokens that were."""
        rows = len(self.tokens)
        if rows == 1 or self.mask is not None or cache.tables or cache.max_pages is not None:
            return 0
        equal = (self.tokens[:, : self.length - 1] == self.tokens[:1, : self.length - 1]).all(dim=0)  # (time,)
        shared = int(equal.long().cumprod(0).sum())
        if shared < cache.page_size:
            return 0
        _, positions = cache.begin(None, self.positions[:1, :shared])
        self._call(self.tokens[:1, :shared], None, positions)
        cache.fork(rows)
        return shared

    def _pass(self, start: int, stop: int) -> Tensor:
        mask = None if self.mask is None else self.mask[:, :stop]
        positions = self.positions[:, start:stop]
        if self.cache is not None:
            mask, positions = self.cache.begin(mask, positions)
        return self._call(self.tokens[:, start:stop], mask, positions)

    def _call(self, tokens: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:
        output = self.model(
            tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=self.cache is not None,
            **self.last_logits,
        )
        return output.logits[:, -1]


def refuse_too_long(model: Any, prompt: int, new: int) -> None:
    """Refuse a text that is longer than the positions of GPT-2, which has a vector for each position and none beyond.

    Rotary positions go on beyond the training length, but not well.

    Args:
        model: as for `generate`.
        prompt: the tokens of the longest prompt.
        new: the tokens to be added. The last one is not read, so it needs no position.

    Raises:
        CourseError: the positions would run out.
    """
    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", "") == "gpt2" and prompt + new - 1 > config.max_position_embeddings:
        raise CourseError(
            f"A prompt of {prompt} tokens and {new} new ones do not fit into this model's "
            f"{config.max_position_embeddings} positions: shorten the prompt, or generate less."
        )


def _pad_left(prompts: Prompts, new: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Token ids and attention mask, both (batch, longest prompt + new), and the longest prompt's length.

    Padding is masked, so its value does not matter.
    """
    longest = max(map(len, prompts))
    tokens = [[0] * (longest - len(prompt)) + list(prompt) + [0] * new for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * (len(prompt) + new) for prompt in prompts]
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device), longest


def complete(
    model: nn.Module,
    tokenizer: ModelTokenizer,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    from_template: bool = False,
    **options: Any,
) -> list[str]:
    """Continue texts: tokenise the prompts as they are, `generate`, and decode the new tokens.

    Args:
        model: as for `generate`.
        tokenizer: the tokenizer of the model.
        prompts: the texts to continue.
        max_new_tokens: how many tokens to add at most.
        from_template: whether a chat template wrote the prompts. It has written all special tokens, so the tokenizer
            adds none.
        options: other arguments of `generate`.

    Returns:
        The new text of each prompt.

    Raises:
        CourseError: as for `generate`.
    """
    ids = [prompt_ids(tokenizer, prompt, from_template) for prompt in prompts]
    options.setdefault("eos_token_id", end_tokens(model, tokenizer))
    new = generate(model, ids, max_new_tokens, **options)
    return [tokenizer.decode(tokens) for tokens in new]


def prompt_ids(tokenizer: ModelTokenizer, prompt: str, from_template: bool = False) -> list[int]:
    """Tokenise a text to continue: with one begin token if the tokenizer adds one, and never with an end token.

    Args:
        tokenizer: the tokenizer of the model.
        prompt: the text.
        from_template: whether a chat template wrote the text, see `complete`.

    Returns:
        The token ids.
    """
    begin, end = getattr(tokenizer, "bos_token", None), getattr(tokenizer, "eos_token_id", None)
    if from_template or (begin and prompt.startswith(begin)):  # the begin token is in the text already
        return list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    ids = list(tokenizer(prompt)["input_ids"])
    if len(ids) > 1 and ids[-1] == end and not prompt.endswith(tokenizer.decode(ids[-1:])):
        return ids[:-1]  # the tokenizer has add_eos_token set: that ends a document, which is to go on here
    return ids
