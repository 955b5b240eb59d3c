"""Inference: choosing the next token (`sampling`), caches of keys and values (`caches`) and the generate loop.

`prepare` makes a model fast for decoding on a CPU, and `speculation` has it check several tokens in one pass.
"""

from course_lib.inference.caches import CACHES, kv_bytes_per_token, make_cache
from course_lib.inference.generate import complete, generate, prompt_ids
from course_lib.inference.prepared import prepare
from course_lib.inference.sampling import SamplingSettings, sample
from course_lib.inference.speculation import (
    DraftModel,
    PromptLookup,
    expected_speedup,
    expected_tokens,
    generate_speculatively,
)
from course_lib.inference.stopping import end_tokens
from course_lib.inference.streaming import stream

__all__ = [
    "CACHES",
    "DraftModel",
    "PromptLookup",
    "SamplingSettings",
    "complete",
    "end_tokens",
    "expected_speedup",
    "expected_tokens",
    "generate",
    "generate_speculatively",
    "kv_bytes_per_token",
    "make_cache",
    "prepare",
    "prompt_ids",
    "sample",
    "stream",
]
