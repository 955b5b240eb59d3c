"""The generate loop: one forward a token, with the model's key-value cache.

Left out, for chapter 08: caches of our own, stopping sequences, repetition penalties, streaming.
"""

from collections.abc import Sequence
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
    eos_token_id: int | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """Continue each prompt (token ids) by at most `max_new_tokens`; returns only the new tokens, end token excluded.

    Prompts of unequal length are padded on the left and told their true positions: a row's result is the same
    alone and in a batch (tests/parity/test_generate.py).
    """
    if not prompts or not all(prompts):
        raise CourseError("generate needs at least one prompt, and each prompt at least one token.")
    _refuse_too_long(model, max(map(len, prompts)), max_new_tokens)
    device = next(model.parameters()).device
    tokens, mask = _pad_left(prompts, device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    generator = torch.Generator(device).manual_seed(seed)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    cache, rows = None, []
    for _ in range(max_new_tokens):
        output = model(tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
        cache, logits = output.past_key_values, output.logits[:, -1]
        chosen = sample(logits, temperature, top_p, generator)
        done |= chosen == (-1 if eos_token_id is None else eos_token_id)
        rows.append(chosen.masked_fill(done, -1))  # -1 marks the end token and what follows it
        if done.all():
            break
        tokens, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=-1)
    return [[token for token in row if token >= 0] for row in torch.stack(rows, dim=1).tolist()]


def _refuse_too_long(model: nn.Module, prompt: int, new: int) -> None:
    """GPT-2 has a vector for each position and none beyond; rotary positions go on, if not well."""
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
    model: nn.Module, tokenizer: ModelTokenizer, prompts: Sequence[str], max_new_tokens: int, **options: Any
) -> list[str]:
    """`generate` for text: the completions of `prompts`, given to the model as they are, without a chat template."""
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    new = generate(model, ids, max_new_tokens, eos_token_id=tokenizer.eos_token_id, **options)
    return [tokenizer.decode(tokens) for tokens in new]
