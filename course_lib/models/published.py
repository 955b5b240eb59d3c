"""Shapes of published models that nobody can load here: typed in from their papers, for arithmetic alone.

`course memory` counts with them. The tests compare `parameter_count` with the published numbers of parameters.
"""

from dataclasses import dataclass

from course_lib.models.config import CONFIGS, DecoderConfig


@dataclass(frozen=True)
class Published:
    """A model's shape and where it is published."""

    config: DecoderConfig
    source: str


LLAMA = "Touvron et al. 2023, arXiv:2302.13971, table 2"
LLAMA_3 = "Grattafiori et al. 2024, arXiv:2407.21783, table 3, and config.json of the model"


def _llama(width: int, layers: int, heads: int, mlp: int) -> Published:
    config = DecoderConfig("llama", 32_000, width, layers, heads, 2048, mlp, tie_word_embeddings=False)
    return Published(config, LLAMA)


def _llama_3(width: int, layers: int, heads: int, mlp: int) -> Published:
    config = DecoderConfig(
        "llama", 128_256, width, layers, heads, 8192, mlp, 8, rope_theta=500_000.0, tie_word_embeddings=False
    )
    return Published(config, LLAMA_3)


# The MLPs of LLaMA are 2/3 of 4 times the width, rounded up to a multiple of 256. The paper calls the third 32.5B
# parameters, the QLoRA paper 33B.
PUBLISHED = {
    "llama-7b": _llama(4096, 32, 32, 11_008),
    "llama-13b": _llama(5120, 40, 40, 13_824),
    "llama-33b": _llama(6656, 60, 52, 17_920),
    "llama-65b": _llama(8192, 80, 64, 22_016),
    "llama-3-8b": _llama_3(4096, 32, 32, 14_336),
    "llama-3-70b": _llama_3(8192, 80, 64, 28_672),
}


def known_shapes() -> str:
    """A sentence with the names of all shapes, for an error."""
    return f"Shapes that `course memory` knows by name: {', '.join([*PUBLISHED, *CONFIGS])}."
