"""StreamingLLM's cache: the first tokens and a window of the last (Xiao et al. 2023, arXiv:2309.17453, section 3.2).

Trained attention puts much weight on the first tokens of a text, whatever they are, because softmax weights have to sum
to 1 ("attention sinks"). A window that drops these tokens breaks the model; a window that keeps four of them does not.
The sinks of this cache are tokens of the text. The `attention_sinks` of `Decoder` are something else: learned scores
that belong to no token.
"""

import torch
from torch import Tensor

from course_lib.errors import CourseError
from course_lib.inference.caches.base import Cache
from course_lib.models.attention import rotate


class SinkCache(Cache):
    """Keeps the first `sinks` tokens and the last `window` tokens, and drops those in between.

    Positions are those *in the cache*, as in the paper. If tokens 0, 1, 2, 3, 6, 7, 8 are kept and token 9 comes next,
    their positions are 0, 1, 2, 3, 4, 5, 6 and 7. Keys contain RoPE's rotation. Rotations add up, so a key moves from
    position p to q by a rotation through the angle of q - p. It always starts from the stored key, so errors do not
    accumulate.

    Until the first token is dropped, the result is that of a cache that keeps all tokens.

    Args:
        frequencies: RoPE's angle for each pair of numbers at position 1, (head_dim / 2,).
        sinks: how many first tokens stay.
        window: how many last tokens stay, including the new ones.
        neighbours: whether the two numbers of a pair are side by side, as in models from `prepare`.

    Raises:
        CourseError: the window holds no token, or `sinks` is negative.
    """

    is_croppable = False

    def __init__(self, frequencies: Tensor, sinks: int = 4, window: int = 252, neighbours: bool = False):
        super().__init__()
        self.neighbours = neighbours
        if window < 1 or sinks < 0:
            raise CourseError(f"A sink cache of {sinks} sinks and a window of {window}: sinks >= 0 and window >= 1.")
        self.frequencies, self.sinks, self.window = frequencies, sinks, window
        self.longest_block = window
        self._written_at = torch.zeros(0, dtype=torch.long)  # (kept,): the position at which each key was stored
        self._cos = self._sin = torch.zeros(0)
        self.dropped = 0

    @property
    def capacity(self) -> int:
        """The largest number of tokens that are kept."""
        return self.sinks + self.window

    def begin(self, mask: Tensor | None, positions: Tensor) -> tuple[Tensor | None, Tensor]:
        """Drop the oldest tokens after the sinks so that the new ones fit, and give their positions in the cache.

        Args:
            mask: has to be None, because rows with padding have their sinks at different positions.
            positions: the positions of the new tokens, (batch, time).

        Returns:
            None, and the positions in the cache, (batch, time).

        Raises:
            CourseError: there is padding, or there are more new tokens than the window holds.
        """
        time = positions.shape[1]
        if mask is not None:
            raise CourseError("A sink cache takes rows of one length: generate for each prompt by itself.")
        if time > self.window:
            raise CourseError(
                f"{time} new tokens at once do not fit into a window of {self.window}: bring them in parts."
            )
        kept = self.get_seq_length()
        if (excess := kept + time - self.capacity) > 0:
            self._drop(excess)
            kept = self.get_seq_length()
        here = torch.arange(kept + time, device=positions.device)
        # The new keys arrive at their places; the old ones have moved since they were stored.
        self._written_at = torch.cat([self._written_at.to(here.device), here[kept:]])
        angles = (here - self._written_at)[:, None].float() * self.frequencies.to(here.device)  # (kept + T, D / 2)
        # (1, 1, kept + T, D): each angle for both numbers of its pair
        angles = (angles.repeat_interleave(2, -1) if self.neighbours else torch.cat([angles, angles], -1))[None, None]
        self._cos, self._sin = angles.cos(), angles.sin()
        return None, here[kept:].expand(positions.shape)

    def _drop(self, excess: int) -> None:
        """Drop the `excess` oldest tokens after the sinks, in every layer."""
        first, later = self.sinks, self.sinks + excess
        for layer, pair in self._kept.items():
            keys, values = (torch.cat([x[:, :, :first], x[:, :, later:]], dim=2) for x in pair)
            self._kept[layer] = keys, values
            self._lengths[layer] = keys.shape[2]
        self._written_at = torch.cat([self._written_at[:first], self._written_at[later:]])
        self.dropped += excess

    def _store(self, keys: Tensor, values: Tensor, layer: int, start: int) -> tuple[Tensor, Tensor]:
        if start:
            past_keys, past_values = self._kept[layer]
            keys = torch.cat([past_keys, keys], dim=2)  # (B, K, kept + T, D)
            values = torch.cat([past_values, values], dim=2)
        if len(self._written_at) != keys.shape[2]:
            raise CourseError("A sink cache needs `begin` before each pass, as `generate` calls it.")
        self._kept[layer] = keys, values
        if not self.dropped:
            return keys, values
        turn = rotate_neighbours if self.neighbours else rotate
        return turn(keys, self._cos, self._sin), values

    def crop(self, length: int) -> None:
        """Refuse: tokens that were dropped to make room for a draft are gone."""
        raise CourseError("A sink cache cannot be cropped: it has dropped what it would need. Use a static cache.")

    def reset(self) -> None:
        """Forget everything, and that anything was dropped."""
        super().reset()
        self._written_at, self.dropped = self._written_at[:0], 0


def rotate_neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs of neighbouring numbers: (a, b) becomes (a cos - b sin, b cos + a sin).

    `models.attention.rotate` does the same where the two numbers of a pair are half a head apart.

    Args:
        x: (batch, heads, time, head_dim).
        cos: (batch or 1, 1, time, head_dim).
        sin: like cos.

    Returns:
        (batch, heads, time, head_dim).
    """
    a, b = x[..., ::2], x[..., 1::2]
    return x * cos + torch.stack([-b, a], dim=-1).flatten(-2) * sin
