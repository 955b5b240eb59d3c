"""The methods of every cache, and the arithmetic of its size.

Shapes in comments: B is the batch, T the time (new tokens in a row), K heads of keys and values, D the width of a head.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from course_lib.errors import CourseError


class Cache(ABC):
    """The base of all caches. A subclass defines in `_store` how it keeps keys and values.

    A forward pass calls `get_seq_length` once, and then `update` in every layer. `generate` calls `begin` before each
    pass, for the caches that drop tokens. transformers 5.23 needs the other methods: its `generate` takes our caches
    for greedy decoding, sampling, beam search and assisted generation.
    """

    is_compileable = False
    is_sliding = (False,)
    is_croppable = True  # whether `crop` can take any number of tokens back
    layers = ()  # transformers looks here for layers that drop tokens as they go; ours have none
    longest_block: int | None = None  # how many tokens one pass may bring, where a cache drops old ones

    def __init__(self) -> None:
        self._lengths: dict[int, int] = {}  # tokens, by layer
        self._kept: dict[int, tuple[Tensor, ...]] = {}  # what `_store` keeps, by layer

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many tokens of each row the cache holds, padding included."""
        return self._lengths.get(layer_idx, 0)

    def begin(self, mask: Tensor | None, positions: Tensor) -> tuple[Tensor | None, Tensor]:
        """Make room for the tokens of the next pass, and give their mask and positions.

        Args:
            mask: 1 for tokens and 0 for padding, over all tokens so far and the new ones, (batch, all); None where
                there is no padding.
            positions: the positions of the new tokens, (batch, time).

        Returns:
            The mask over the tokens in the cache and the new ones, (batch, kept + time) or None; and the positions.
        """
        return mask, positions

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens.

        Args:
            keys: (batch, kv_heads, time, head_dim), with their positions in them.
            values: like keys.
            layer: the number of the layer.

        Returns:
            All keys and all values that this layer attends to, (batch, kv_heads, kept + time, head_dim) each.
        """
        start = self._lengths.get(layer, 0)
        self._lengths[layer] = start + keys.shape[2]
        return self._store(keys, values, layer, start)

    @abstractmethod
    def _store(self, keys: Tensor, values: Tensor, layer: int, start: int) -> tuple[Tensor, Tensor]:
        """Keep the arguments of `update`, after the layer's first `start` tokens, and return its result."""

    def crop(self, length: int) -> None:
        """Forget tokens at the end, such as those of a rejected draft.

        Args:
            length: how many tokens stay. A negative number says how many go, and 0 that none goes: in transformers 5.23
                these are the only ways. `reset` forgets all.
        """
        for layer, now in self._lengths.items():
            self._lengths[layer] = length_after_crop(now, length)

    def reset(self) -> None:
        """Forget everything. The next text may have another number of rows."""
        self._lengths.clear()
        self._kept.clear()

    def activate_past_recording(self) -> None:
        """Refuse a draft where its guesses could not be taken back: transformers calls this before one guesses."""
        if not self.is_croppable:
            raise CourseError(
                f"This {type(self).__name__} drops old tokens to make room for a draft's guesses, and cannot bring "
                "them back. Use a static cache, or a paged one without max_pages."
            )

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row i go on with the text of row `beam_idx[i]`, as beam search does after each token."""
        for layer, kept in self._kept.items():
            # (B, ...) -> (number of indices, ...)
            self._kept[layer] = tuple(tensor[beam_idx.to(tensor.device)] for tensor in kept)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows with these numbers, or those that a boolean mask names."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Put so many copies of each row in its place."""
        self.reorder_cache(torch.arange(self._rows()).repeat_interleave(repeats))

    def _rows(self) -> int:
        """The number of rows; 0 for an empty cache."""
        return next((kept[0].shape[0] for kept in self._kept.values()), 0)

    def tensors(self) -> Iterable[Tensor]:
        """The tensors that the cache holds, including buffers that are not full."""
        return [tensor for kept in self._kept.values() for tensor in kept]

    def nbytes(self) -> int:
        """The bytes that the cache has allocated."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """The numbers from which transformers makes its mask: how many keys there will be, and the number of the first.

        Args:
            query_length: the number of new tokens in a row.
            layer_idx: the layer.

        Returns:
            The number of keys, and 0.
        """
        return self.get_seq_length(layer_idx) + query_length, 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """How many keys come before the first query (transformers' name)."""
        return self.get_seq_length(layer_idx)

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """The largest number of tokens that the cache can hold (transformers' name); -1 for no limit."""
        return -1


def length_after_crop(now: int, length: int) -> int:
    """What `crop` leaves.

    Args:
        now: how many tokens there are.
        length: as for `Cache.crop`.

    Returns:
        From 0 to `now` tokens.
    """
    return min(now, length) if length > 0 else max(now + length, 0)


def kv_bytes_per_token(config: Any, dtype: torch.dtype | int = torch.float16) -> int:
    """The bytes that keys and values of one token take: 2 x layers x kv_heads x head_dim x bytes of a number.

    In 16 bits that is 800 KiB for OPT-13B (the PagedAttention paper's example, arXiv:2309.06180, section 3), 512 KiB
    for Llama-2-7B and 128 KiB for Llama-3-8B, whose 32 heads share 8 heads of keys and values.

    Args:
        config: a `DecoderConfig`, or a configuration of transformers.
        dtype: the dtype of the cache, or the bytes of one number.

    Returns:
        The number of bytes.

    Example:
        >>> from course_lib.models.config import CONFIGS
        >>> kv_bytes_per_token(CONFIGS["tiny-llama"], torch.float32)
        384
    """
    size = dtype if isinstance(dtype, int) else dtype.itemsize
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * config.num_hidden_layers * kv_heads * head_dim * size
