"""How much an engine may use: how many requests at once, how long a queue, how many pages."""

from dataclasses import dataclass

from course_lib.errors import CourseError


@dataclass(frozen=True)
class EngineSettings:
    """The limits of one engine.

    Args:
        max_batch: how many requests run at once.
        max_queue: how many requests wait at most; the next one is refused.
        max_pages: how many pages the cache has, for all requests together. With 16 tokens per page, 512 pages hold
            8,192 tokens, which take 377 MB for SmolLM2 (46 kB per token in float32).
        page_size: how many tokens a page holds.
        step_rows: how many tokens one step reads at most. Each running request takes one of them, and prompts are read
            in parts with the rest. So a long prompt delays the others' next token by one such step, and not by its
            whole length.
        keep_prefixes: keep the pages of requests that have ended, for others that begin alike, until the room is
            needed.

    Raises:
        CourseError: a number is below 1.
    """

    max_batch: int = 8
    max_queue: int = 64
    max_pages: int = 512
    page_size: int = 16
    step_rows: int = 32
    keep_prefixes: bool = True

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_queue", "max_pages", "page_size", "step_rows"):
            if getattr(self, name) < 1:
                raise CourseError(f"{name} is {getattr(self, name)}; it has to be at least 1.")
