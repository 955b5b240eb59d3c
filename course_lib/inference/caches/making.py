"""Make a cache by its name."""

from typing import Any

import torch
from torch import Tensor

from course_lib.errors import CourseError
from course_lib.inference.caches.base import Cache
from course_lib.inference.caches.paged import PagedCache
from course_lib.inference.caches.plain import DynamicCache, Int8Cache, StaticCache
from course_lib.inference.caches.sink import SinkCache
from course_lib.rounding import ceil_div
from course_lib.vocabulary import CACHES

COMPILED_CAPACITY = 256  # a compiled model's cache has room for a multiple of this


def make_cache(name: str, model: Any, capacity: int, **options: Any) -> Cache | None:
    """Make a cache by its name, for one call of `generate`.

    Args:
        name: one of `CACHES`.
        model: the model that will use the cache; a sink cache needs its rotary frequencies.
        capacity: the largest number of tokens in a row, for the caches that allocate their memory at once.
        options: further arguments of `SinkCache` or `PagedCache`.

    Returns:
        An empty cache, or None for "none".

    Raises:
        CourseError: the name is unknown, or a sink cache is wanted for a model without rotary positions.

    Example:
        >>> from course_lib.inference import generate
        >>> from course_lib.models.config import CONFIGS
        >>> from course_lib.models.decoder import Decoder
        >>> model = Decoder(CONFIGS["tiny-llama"]).eval()
        >>> cache = make_cache("dynamic", model, capacity=16)
        >>> answers = generate(model, [[1, 2, 3]], 4, cache=cache, eos_token_id=())
        >>> cache.get_seq_length()  # the last of the four new tokens was not read
        6
    """
    if name == "none":
        return None
    if name == "dynamic":
        return DynamicCache()
    if name == "static":
        if getattr(model, "step", None) is not None:  # compiled for this shape: few different ones, see `compiled`
            capacity = ceil_div(capacity, COMPILED_CAPACITY) * COMPILED_CAPACITY
        return StaticCache(capacity)
    if name == "int8":
        return Int8Cache(capacity)
    if name == "paged":
        return PagedCache(**options)
    if name == "sink":
        return SinkCache(rotary_frequencies(model), neighbours=getattr(model, "neighbours", False), **options)
    raise CourseError(f"There is no cache {name!r}. Choose one of {', '.join(CACHES)}.")


def rotary_frequencies(model: Any) -> Tensor:
    """RoPE's angle for each pair at position 1, (head_dim / 2,), as the model itself computes it.

    Raises:
        CourseError: the model has no rotary positions.
    """
    own = getattr(model, "rotary_frequencies", None)
    if isinstance(own, Tensor):
        return own
    for module in model.modules():
        if isinstance(found := getattr(module, "inv_freq", None), Tensor):  # transformers, with its scaling of RoPE
            return found.float()
    config = model.config
    if getattr(config, "model_type", "") != "llama" or not hasattr(config, "rope_theta"):
        raise CourseError(
            f"A sink cache moves keys to other positions, which takes rotary ones; {type(model).__name__} "
            f"({getattr(config, 'model_type', 'unknown')}) has none. Use the paged cache with max_pages."
        )
    return 1 / config.rope_theta ** (torch.arange(0, config.head_dim, 2).float() / config.head_dim)
