"""The shape of a decoder, the named shapes of this course, and how many parameters each has.

A shape's fields have the names that `transformers` gives them in config.json. The modern decoders are ours: Llama's
parts (grouped queries, SwiGLU, a tied head) at sizes to train from scratch, with a vocabulary in proportion:

==============  ==========  =====  ======  ============  ===========
name            vocabulary  width  layers  heads (kv)     parameters
==============  ==========  =====  ======  ============  ===========
modern-200k            512     64       3  4 (4)             192,960
modern-1m            2,048    128       4  4 (2)           1,049,728
modern-5m            4,096    256       6  8 (4)           5,180,672
modern-15m           8,192    384       8  6 (2)          15,735,168
modern-60m          49,152    512      12  8 (2)          58,995,200
modern-125m         49,152    768      14  12 (4)        125,851,392
modern-400m         49,152  1,024      32  16 (4)        398,525,440
==============  ==========  =====  ======  ============  ===========

Those from 60M take SmolLM2's tokenizer; give another vocabulary, or attention sinks, with `dataclasses.replace`.
"""

from dataclasses import dataclass, replace
from typing import Any

from course_lib.errors import CourseError

DERIVED: Any = None  # the default of a size that follows from the others: __post_init__ puts a number in its place


@dataclass(frozen=True)
class DecoderConfig:
    """One decoder. `model_type` decides what its parts are:

    - "gpt2" (Radford et al. 2019): learned positions, LayerNorm, GELU, biases, one fused projection to q, k and v;
    - "llama" (Touvron et al. 2023, arXiv:2302.13971): RoPE, RMSNorm, SwiGLU, no biases, grouped-query attention.

    A size that is None is filled in at once. With `dataclasses.replace`, give those three anew for a new hidden_size.

    Args:
        model_type: "gpt2" or "llama".
        vocab_size: rows of the embedding's table.
        hidden_size: width of the residual stream.
        num_hidden_layers: blocks.
        num_attention_heads: heads of queries in each block.
        max_position_embeddings: the longest row in tokens; GPT-2 has a learned vector for each position.
        intermediate_size: width inside the MLP (None: 4 times hidden_size, the GPT-2 choice).
        num_key_value_heads: heads that keys and values have; query heads share them in equal groups (None: one each).
        head_dim: width of one head (None: hidden_size / num_attention_heads).
        norm_eps: what the norms add to the variance or mean square before the root.
        rope_theta: the base of RoPE's angles (Llama family).
        tie_word_embeddings: whether the head uses the embedding's table.
        attention_sinks: for each head a learned score that takes attention but gives nothing (Llama family).
        dropout: on embeddings, attention weights and both residual paths of each block, in training.
        attention: "sdpa" (torch's fused kernels) or "eager" (the formula, written out); the results are the same.

    Raises:
        CourseError: the numbers do not make a decoder.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    intermediate_size: int = DERIVED
    num_key_value_heads: int = DERIVED
    head_dim: int = DERIVED
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    tie_word_embeddings: bool = True
    attention_sinks: bool = False
    dropout: float = 0.0
    attention: str = "sdpa"

    def __post_init__(self) -> None:
        if self.model_type not in ("gpt2", "llama"):
            raise CourseError(f"model_type is {self.model_type!r}; this decoder is 'gpt2' or 'llama'.")
        if self.attention not in ("sdpa", "eager"):
            raise CourseError(f"attention is {self.attention!r}; it can be 'sdpa' or 'eager'.")
        if not 0 <= self.dropout < 1:
            raise CourseError(f"dropout is {self.dropout}; it is a probability from 0 to below 1.")
        self._fill_in()
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings", "intermediate_size"):
            if getattr(self, name) < 1:
                raise CourseError(f"{name} is {getattr(self, name)}; it has to be at least 1.")
        self._check_heads()

    def _fill_in(self) -> None:
        derived = {
            "intermediate_size": 4 * self.hidden_size,
            "num_key_value_heads": self.num_attention_heads,
            "head_dim": self.hidden_size // max(self.num_attention_heads, 1),
        }
        for name, value in derived.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)  # the one place where a frozen config is still being made

    def _check_heads(self) -> None:
        width, heads, shared = self.hidden_size, self.num_attention_heads, self.num_key_value_heads
        if min(heads, shared, self.head_dim) < 1 or heads % shared:
            raise CourseError(f"{heads} attention heads cannot share {shared} key-value heads in equal groups.")
        if self.model_type == "gpt2" and (heads * self.head_dim != width or shared != heads or self.attention_sinks):
            raise CourseError(
                f"A gpt2 decoder shares its width {width} out to its heads evenly, each with keys and values of its "
                f"own and no sinks; here are {heads} heads of width {self.head_dim}, {shared} with keys and values."
            )
        if self.model_type == "llama" and self.head_dim % 2:
            raise CourseError(f"head_dim is {self.head_dim}; RoPE turns pairs of numbers, so it has to be even.")


def parameter_count(config: DecoderConfig) -> int:
    """Parameters by formula; a tied head counts once. With width d, MLP width m, L layers and vocabulary V they are

    - gpt2, T positions: V d + T d + L (4 d d + 2 d m + 9 d + m) + 2 d
    - llama, H query and K key-value heads of width h: V d + L (2 d h (H + K) + 3 d m + 2 d) + d

    A head that is not tied adds V d, and sinks add L H. The tests compare this with the built models and the published
    counts.
    """
    d, m, layers, heads = (
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        config.num_attention_heads,
    )
    embeddings = config.vocab_size * d * (1 if config.tie_word_embeddings else 2)
    if config.model_type == "gpt2":
        return embeddings + config.max_position_embeddings * d + layers * (4 * d * d + 2 * d * m + 9 * d + m) + 2 * d
    attention = 2 * d * config.head_dim * (heads + config.num_key_value_heads)
    sinks = heads if config.attention_sinks else 0
    return embeddings + layers * (attention + sinks + 3 * d * m + 2 * d) + d


def gpt2_of_the_same_size(config: DecoderConfig) -> DecoderConfig:
    """A GPT-2 of the same width, blocks, heads, vocabulary and context, with about as many parameters.

    The width of its MLP makes up the difference: GPT-2 has a vector for each position, biases, two matrices in the MLP
    instead of three, and keys and values for every head.

    Args:
        config: of a Llama.

    Returns:
        The GPT-2's. Its parameters differ by less than one row of the MLP in each block.
    """
    narrow = DecoderConfig(
        "gpt2",
        config.vocab_size,
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.max_position_embeddings,
        1,
        dropout=config.dropout,
    )
    missing = parameter_count(config) - parameter_count(narrow)
    a_unit = config.num_hidden_layers * (2 * config.hidden_size + 1)  # its two vectors and its bias, in each block
    return replace(narrow, intermediate_size=max(1, 1 + missing // a_unit))


def _gpt2(width: int, layers: int, heads: int, vocabulary: int = 50_257, positions: int = 1024) -> DecoderConfig:
    return DecoderConfig("gpt2", vocabulary, width, layers, heads, positions)


def _modern(
    vocabulary: int, width: int, layers: int, heads: int, kv_heads: int, mlp: int, context: int
) -> DecoderConfig:
    return DecoderConfig("llama", vocabulary, width, layers, heads, context, mlp, kv_heads)


CONFIGS = {
    "tiny-gpt": _gpt2(32, 2, 4, vocabulary=100, positions=64),
    "tiny-llama": _modern(100, 48, 2, 4, 2, mlp=128, context=256),
    "distilgpt2": _gpt2(768, 6, 12),
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
    "smollm2-135m": DecoderConfig("llama", 49_152, 576, 30, 9, 8192, 1536, 3, rope_theta=100_000.0),
    # The MLPs are about 8/3 of the width, as in Llama: three matrices then cost what GPT-2's two of 4 times do.
    "modern-200k": _modern(512, 64, 3, 4, 4, mlp=192, context=512),
    "modern-1m": _modern(2_048, 128, 4, 4, 2, mlp=384, context=512),
    "modern-5m": _modern(4_096, 256, 6, 8, 4, mlp=640, context=512),
    "modern-15m": _modern(8_192, 384, 8, 6, 2, mlp=1024, context=1024),
    "modern-60m": _modern(49_152, 512, 12, 8, 2, mlp=1408, context=1024),
    "modern-125m": _modern(49_152, 768, 14, 12, 4, mlp=2048, context=2048),
    "modern-400m": _modern(49_152, 1024, 32, 16, 4, mlp=2688, context=2048),
}
