"""The caches that keep every token: by concatenation, in memory that is allocated once, or in eight bits."""

import torch
from torch import Tensor

from course_lib.errors import CourseError
from course_lib.inference.caches.base import Cache


class DynamicCache(Cache):
    """Appends keys and values with `torch.cat`, so every new token copies all earlier ones."""

    def _store(self, keys: Tensor, values: Tensor, layer: int, start: int) -> tuple[Tensor, Tensor]:
        if start:
            past_keys, past_values = self._kept[layer]
            # (B, K, start, D) and (B, K, T, D) -> (B, K, start + T, D); after a crop, the rest is left behind here
            keys = torch.cat([past_keys[:, :, :start], keys], dim=2)
            values = torch.cat([past_values[:, :, :start], values], dim=2)
        self._kept[layer] = keys, values
        return keys, values


class StaticCache(Cache):
    """Writes keys and values into memory that is allocated once, at the first token.

    Args:
        capacity: the largest number of tokens in a row, including padding.
    """

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity = capacity

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """The capacity."""
        return self.capacity

    def _store(self, keys: Tensor, values: Tensor, layer: int, start: int) -> tuple[Tensor, Tensor]:
        stop = start + keys.shape[2]
        self._refuse_beyond(stop)
        if layer not in self._kept:
            self._kept[layer] = self._room(keys), self._room(values)
        all_keys, all_values = self._kept[layer]  # (B, K, capacity, D) each
        all_keys[:, :, start:stop] = keys
        all_values[:, :, start:stop] = values
        return all_keys[:, :, :stop], all_values[:, :, :stop]  # views: nothing is copied

    def buffers(self) -> list[tuple[Tensor, ...]]:
        """The buffers of each layer, for a caller that writes to them itself and then calls `advance`."""
        return [self._kept[layer] for layer in sorted(self._kept)]

    def advance(self, tokens: int) -> None:
        """Count tokens that the caller has written to the buffers."""
        for layer, length in self._lengths.items():
            self._refuse_beyond(length + tokens)
            self._lengths[layer] = length + tokens

    def _room(self, like: Tensor) -> Tensor:
        batch, heads, _, width = like.shape
        return like.new_zeros(batch, heads, self.capacity, width)

    def _refuse_beyond(self, stop: int) -> None:
        if stop > self.capacity:
            raise CourseError(
                f"The cache has room for {self.capacity} tokens and was given token {stop}. "
                "Make it with a larger capacity, or generate fewer tokens."
            )


class Int8Cache(StaticCache):
    """Keeps keys and values in eight bits, with one scale for each token and head:

        scale = max over the head's numbers / 127,    stored = round(x / scale),    read = stored * scale

    A number is off by at most half a scale. Tests measure what this costs in loss. With heads of width 64, a token
    takes 66 bytes per head, and float32 takes 256 (the scale has 16 bits).
    """

    def _store(self, keys: Tensor, values: Tensor, layer: int, start: int) -> tuple[Tensor, Tensor]:
        stop = start + keys.shape[2]
        self._refuse_beyond(stop)
        if layer not in self._kept:
            self._kept[layer] = (*self._room_in_8_bits(keys), *self._room_in_8_bits(values))
        read = []
        for new, (stored, scales) in zip((keys, values), self._in_pairs(layer), strict=True):
            stored[:, :, start:stop], scales[:, :, start:stop] = quantize_rows(new)
            read.append(dequantize_rows(stored[:, :, :stop], scales[:, :, :stop], new.dtype))
        return read[0], read[1]

    def _in_pairs(self, layer: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        keys, key_scales, values, value_scales = self._kept[layer]
        return (keys, key_scales), (values, value_scales)

    def _room_in_8_bits(self, like: Tensor) -> tuple[Tensor, Tensor]:
        batch, heads, _, width = like.shape
        stored = torch.zeros(batch, heads, self.capacity, width, dtype=torch.int8, device=like.device)
        scales = torch.zeros(batch, heads, self.capacity, 1, dtype=torch.bfloat16, device=like.device)
        return stored, scales


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round each number to eight bits, with one scale for each row of the last dimension.

    Args:
        x: (..., width).

    Returns:
        Whole numbers from -127 to 127, int8 (..., width), and scales, bfloat16 (..., 1).

    Example:
        >>> stored, scales = quantize_rows(torch.tensor([[127.0, -63.0, 0.4]]))
        >>> stored.tolist(), scales.item()
        ([[127, -63, 0]], 1.0)
    """
    scales = (x.float().abs().amax(dim=-1, keepdim=True) / 127).to(torch.bfloat16)
    # The rounded scale is the one that is used, so that its rounding costs nothing but a clamped largest number.
    divisor = scales.float().clamp(min=torch.finfo(torch.float32).tiny)
    return (x.float() / divisor).round().clamp(-127, 127).to(torch.int8), scales


def dequantize_rows(stored: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Restore the numbers from `quantize_rows`, up to rounding.

    Args:
        stored: int8 (..., width).
        scales: (..., 1).
        dtype: the dtype of the result.

    Returns:
        (..., width).
    """
    return stored.to(dtype) * scales.to(dtype)
