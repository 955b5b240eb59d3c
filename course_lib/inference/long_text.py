"""The loss of each token of a text that is longer than the window of the cache, as StreamingLLM measures it.

Xiao et al. 2023 (arXiv:2309.17453, figure 3 and table 1) compare three ways. A window without the first tokens makes
the loss explode, and a window with four first tokens keeps it flat. The baseline computes the window anew for each
part.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.errors import CourseError
from course_lib.inference.caches import Cache
from course_lib.models.devices import device_of
from course_lib.models.modes import evaluating


@torch.inference_mode()
def token_losses(model: Any, tokens: Sequence[int], cache: Cache, block: int = 32) -> Tensor:
    """Read a text in blocks with a cache, and give the loss of every token but the first.

    The model is in evaluation mode meanwhile. With a `SinkCache`, the first token of a block attends to the sinks and
    to the window without the block, and the last token attends to the whole window. Blocks of 1 are the paper's
    setting; larger blocks are faster.

    Args:
        model: any model that `generate` takes.
        tokens: the text.
        cache: an empty cache.
        block: how many tokens one pass reads.

    Returns:
        The losses in nats, (len(tokens) - 1,). The exponential of their mean is the perplexity.

    Raises:
        CourseError: the text has fewer than two tokens, or a block does not fit into the cache.
    """
    ids = _as_tensor(model, tokens)
    losses = []
    with evaluating(model):
        for start in range(0, ids.shape[1] - 1, block):
            stop = min(start + block, ids.shape[1] - 1)  # the last token is only a target
            mask, positions = cache.begin(None, torch.arange(start, stop, device=ids.device)[None])
            output = model(
                ids[:, start:stop],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            losses.append(_losses(output.logits[0], ids[0, start + 1 : stop + 1]))
    return torch.cat(losses)


@torch.inference_mode()
def token_losses_recomputed(model: Any, tokens: Sequence[int], window: int, block: int = 32) -> Tensor:
    """Compute the same losses without a cache: for each block, read the window before it anew, from position 0.

    Args:
        model: any model that `generate` takes.
        tokens: the text.
        window: how many tokens are read at most, the block included.
        block: how many tokens of each pass count.

    Returns:
        The losses in nats, (len(tokens) - 1,).

    Raises:
        CourseError: the text has fewer than two tokens, or the block is larger than the window.
    """
    ids = _as_tensor(model, tokens)
    if not 1 <= block <= window:
        raise CourseError(f"A block of {block} tokens and a window of {window}: 1 <= block <= window.")
    losses = []
    with evaluating(model):
        for start in range(0, ids.shape[1] - 1, block):
            stop = min(start + block, ids.shape[1] - 1)
            first = max(0, stop - window)
            logits = model(ids[:, first:stop], use_cache=False).logits[0, start - first :]
            losses.append(_losses(logits, ids[0, start + 1 : stop + 1]))
    return torch.cat(losses)


def _as_tensor(model: Any, tokens: Sequence[int]) -> Tensor:
    if len(tokens) < 2:
        raise CourseError(f"A text of {len(tokens)} tokens has no token with a loss: it needs at least two.")
    return torch.tensor([list(tokens)], device=device_of(model))


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")
