"""One decoding step of a prepared model as one compiled function.

torch.compile fuses the operations between the products into a few kernels, and Python makes one call for each token
instead of about six hundred. The shapes must not change. So the step attends to the whole capacity of the static cache,
with -inf where it is not filled, and the capacity is rounded up so that few different ones occur. Each capacity is
compiled once. That takes between a quarter of a minute and three minutes for SmolLM2's thirty layers.

A product of one row is written as a sum over the columns of W * x. The compiler makes one loop of it, which all threads
share, and which unpacks bfloat16 and eight bits on the way. Four bits keep torch's kernel, whose layout is its own.
Whether compiling gains anything depends on the processor: measure yours with ``course bench generate --compile``. On an
EPYC with AVX-512 and without AMX, and two threads, the plain step reads SmolLM2's float32 weights at 37 GB/s through
oneDNN, and the compiled one at 25 to 33, of 50 that the memory gives. Several rows gained nothing there, so they take
the plain step.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.errors import CourseError
from course_lib.inference.caches import StaticCache, make_cache
from course_lib.inference.generate import generate

if TYPE_CHECKING:
    from course_lib.inference.prepared import PreparedDecoder


def missing_compiler() -> str | None:
    """The C++ compiler that torch.compile would call and that is not installed; None where it is.

    torch takes the program that the variable CXX names, or g++ (on macOS clang++).
    """
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return name if shutil.which(name) is None else None


def require_compiler() -> None:
    """CourseError where there is no C++ compiler for torch.compile."""
    if (name := missing_compiler()) is not None:
        raise CourseError(
            f"torch.compile needs a C++ compiler, and there is no {name} here. Install it (sudo apt install g++), set "
            "the variable CXX to another one, or go on without compiling."
        )


class CompiledStep:
    """A compiled step of one token per row, for a model from `prepare`.

    Args:
        model: the model to compile.

    Attributes:
        seconds: how long compiling took, by the cache's capacity.
    """

    def __init__(self, model: "PreparedDecoder"):
        self.model = model
        for product in model.products():
            product.for_compiler()
        self.seconds: dict[int, float] = {}
        self._compiled: dict[int, Callable[..., Tensor]] = {}

    def ahead(self, tokens: int) -> float:
        """Compile now for a static cache of so many tokens, so that no answer waits for it.

        Args:
            tokens: of prompt and answer together.

        Returns:
            The seconds that compiling took; 0 where this capacity had been compiled before.
        """
        before = sum(self.seconds.values())
        cache = make_cache("static", self.model, tokens)
        assert cache is not None
        generate(self.model, [[0]], 2, cache=cache, eos_token_id=())
        return sum(self.seconds.values()) - before

    def takes(self, tokens: Tensor, cache: Any) -> bool:
        """Whether the compiled step can do this pass: it needs one new token of one row, and a filled static cache.

        Args:
            tokens: the new ones, (batch, time).
            cache: the cache, or None.

        Returns:
            True where it can.
        """
        return tokens.shape == (1, 1) and type(cache) is StaticCache and cache.get_seq_length() > 0

    def __call__(self, tokens: Tensor, mask: Tensor | None, turns: Tensor, cache: StaticCache) -> Tensor:
        """The logits after one more token.

        Args:
            tokens: (1, 1).
            mask: 1 for tokens and 0 for padding, (1, past + 1); None where there is no padding.
            turns: RoPE's complex numbers, (1, 1, 1, head_dim / 2).
            cache: the cache, whose buffers are written to.

        Returns:
            (1, vocabulary).

        Raises:
            CourseError: the compiler failed.
        """
        start = cache.get_seq_length()
        bias = torch.full((1, 1, 1, cache.capacity), -torch.inf)
        bias[..., : start + 1] = 0.0
        if mask is not None:
            bias[..., : start + 1].masked_fill_(mask[:, None, None] == 0, -torch.inf)
        x = F.embedding(tokens[:, 0], self.model.embedding)  # (1, C)
        inputs = x, torch.view_as_real(turns), bias, torch.tensor([start]), cache.buffers()
        room = cache.capacity
        logits = self._compiled[room](*inputs) if room in self._compiled else self._first(room, inputs)
        cache.advance(1)
        return logits

    def _first(self, room: int, inputs: tuple[Any, ...]) -> Tensor:
        """Compile for a new capacity, and take the step."""
        # Without isolate_recompiles all capacities of all models would count together, and torch gives up at the ninth.
        # Any, because torch 2.13's typed overloads do not list that argument.
        compile: Any = torch.compile
        run = compile(self._run, dynamic=False, fullgraph=True, isolate_recompiles=True)
        started = time.perf_counter()
        try:
            logits = run(*inputs)
        except RuntimeError as error:  # what torch's own compilers raise, whatever it is that failed below them
            first_line = str(error).strip().partition("\n")[0]
            raise CourseError(
                f"torch.compile failed: {first_line[:300]} It needs a C++ compiler and Python's headers (sudo apt "
                "install g++ python3-dev). Or go on without compiling."
            ) from error
        self.seconds[room] = time.perf_counter() - started
        self._compiled[room] = run
        return logits

    def _run(self, x: Tensor, turns: Tensor, bias: Tensor, place: Tensor, buffers: list[tuple[Tensor, ...]]) -> Tensor:
        """All layers and the head; x is (1, C), turns (1, 1, 1, D / 2, 2), bias (1, 1, 1, capacity)."""
        model, width = self.model, self.model.head_dim
        cos, sin = turns[:, 0, :, :, 0], turns[:, 0, :, :, 1]  # (1, 1, D / 2)
        for layer, (all_keys, all_values) in zip(model.layers, buffers, strict=True):
            projected = layer.q_k_v.one_row(_normalise(x, model.norm_floor)).view(1, -1, width)  # (1, H + 2 K, D)
            pairs = projected[:, : -model.kv_heads].unflatten(-1, (-1, 2))
            a, b = pairs[..., 0], pairs[..., 1]  # (1, H + K, D / 2)
            q_k = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)  # (1, H + K, D)
            all_keys.index_copy_(2, place, q_k[:, model.heads :, None])
            all_values.index_copy_(2, place, projected[:, -model.kv_heads :, None])
            q = q_k[:, : model.heads].reshape(1, model.kv_heads, -1, width)  # (1, K, H / K, D)
            mixed = F.scaled_dot_product_attention(q, all_keys, all_values, attn_mask=bias)
            x = x + layer.output.one_row(mixed.reshape(1, -1))
            gate, up = layer.gate_up.one_row(_normalise(x, model.norm_floor)).chunk(2, dim=-1)
            x = x + layer.down.one_row(F.silu(gate) * up)
        return model.head.one_row(_normalise(x, model.norm_floor))


def _normalise(x: Tensor, floor: Tensor) -> Tensor:
    """As in `prepared`, written so that it fuses into one kernel."""
    return x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + floor * floor)
