"""The generate loop: one forward pass for each new token, with the model's key-value cache.

Left out, for chapter 08: caches of our own, stopping sequences, repetition penalties, streaming.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from course_lib.data.tokenizers import ModelTokenizer
from course_lib.errors import CourseError
from course_lib.inference.sampling import sample


@torch.inference_mode()
def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    eos_token_id: int | Iterable[int] | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """Continue each prompt (token ids) by at most `max_new_tokens` tokens.

    Prompts of unequal length are padded on the left and get their true positions, so that a row's result is the same
    alone and in a batch (tests/parity/test_generate.py).

    Args:
        model: a transformers model or our decoder.
        prompts: the token ids of each, at least one.
        max_new_tokens: how many tokens to add at most.
        temperature: 0 takes the likeliest token each time; otherwise see `sample`.
        top_p: see `sample`.
        eos_token_id: the end token, or several; a row stops at the first of them.
        seed: of the draws.

    Returns:
        For each prompt the new tokens alone, without the end token.

    Raises:
        CourseError: a prompt is empty, or does not fit into the model's positions.
    """
    if not prompts or not all(prompts):
        raise CourseError("generate needs at least one prompt, and each prompt at least one token.")
    _refuse_too_long(model, max(map(len, prompts)), max_new_tokens)
    device = next(model.parameters()).device
    tokens, mask = _pad_left(prompts, device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)  # (batch, longest prompt): 0 at each prompt's first token
    generator = torch.Generator(device).manual_seed(seed)
    ends = torch.tensor(sorted(_as_set(eos_token_id)), dtype=torch.long, device=device)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    cache, rows = None, []
    # The first pass reads the prompts whole and fills the cache; each later one reads a single new token per row.
    for _ in range(max_new_tokens):
        output = model(tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
        cache, logits = output.past_key_values, output.logits[:, -1]  # (batch, vocabulary)
        chosen = sample(logits, temperature, top_p, generator)
        done |= torch.isin(chosen, ends)
        rows.append(chosen.masked_fill(done, -1))  # -1 marks the end token and what follows it
        if done.all():
            break
        # The next pass gets the new tokens alone, (batch, 1), with a mask over all tokens so far.
        tokens, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=-1)
    return [[token for token in row if token >= 0] for row in torch.stack(rows, dim=1).tolist()]


def _refuse_too_long(model: nn.Module, prompt: int, new: int) -> None:
    """Raise CourseError where GPT-2, which has a vector for each position and none beyond, would run out of them.

    Rotary positions go on beyond the training length, if not well.
    """
    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", "") == "gpt2" and prompt + new - 1 > config.max_position_embeddings:
        raise CourseError(
            f"A prompt of {prompt} tokens and {new} new ones do not fit into this model's "
            f"{config.max_position_embeddings} positions: shorten the prompt, or generate less."
        )


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (batch, longest prompt); padding is masked, so its value does not matter."""
    longest = max(map(len, prompts))
    tokens = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)


def complete(
    model: nn.Module,
    tokenizer: ModelTokenizer,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    from_template: bool = False,
    **options: Any,
) -> list[str]:
    """`generate` for text: the completions of `prompts`, given to the model as they are.

    Args:
        model: a transformers model or our decoder.
        tokenizer: the model's.
        prompts: the texts to continue.
        max_new_tokens: how many tokens to add at most.
        from_template: the prompts were written by a chat template, which has put in all special tokens itself: the
            tokenizer adds none.
        options: those of `generate`.

    Returns:
        For each prompt the new text alone.

    Raises:
        CourseError: as for `generate`.
    """
    ids = [prompt_ids(tokenizer, prompt, from_template) for prompt in prompts]
    new = generate(model, ids, max_new_tokens, eos_token_id=end_tokens(model, tokenizer), **options)
    return [tokenizer.decode(tokens) for tokens in new]


def prompt_ids(tokenizer: ModelTokenizer, prompt: str, from_template: bool = False) -> list[int]:
    """The ids of a text to continue: one begin token where the tokenizer adds one, and never an end token.

    Args:
        tokenizer: the model's.
        prompt: the text.
        from_template: whether a chat template wrote it, see `complete`.

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


def end_tokens(model: nn.Module, tokenizer: ModelTokenizer) -> set[int]:
    """Every token that ends a text: the tokenizer's, and those that the model's configuration names.

    A chat model ends a turn with a token of its own, which often stands in generation_config.json alone: Llama 3
    Instruct has ``<|end_of_text|>``, ``<|eom_id|>`` and ``<|eot_id|>`` there, and only one of them in its tokenizer.

    Args:
        model: a transformers model or our decoder.
        tokenizer: the model's.

    Returns:
        The ids of the end tokens.
    """
    ends = _as_set(getattr(tokenizer, "eos_token_id", None))
    for name in ("generation_config", "config"):
        if named := _as_set(getattr(getattr(model, name, None), "eos_token_id", None)):
            return ends | named  # the first is what transformers' own `generate` goes by
    return ends


def _as_set(ids: int | Iterable[int] | None) -> set[int]:
    if ids is None:
        return set()
    return {ids} if isinstance(ids, int) else set(ids)
