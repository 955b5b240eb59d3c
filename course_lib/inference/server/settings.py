"""What an engine may use: slots, queue, pages."""

from dataclasses import dataclass

from course_lib.errors import CourseError


@dataclass(frozen=True)
class EngineSettings:
    """The limits of one engine.

    Args:
        max_batch: requests that run at once.
        max_queue: requests that wait at most; the next one is refused.
        max_pages: pages of the cache, for all requests together. With 16 tokens a page, 512 of them hold 8,192 tokens,
            which takes 377 MB for SmolLM2 (46 kB a token in float32).
        page_size: tokens in a page.
        step_rows: tokens that one step reads at most. What the running requests leave of it goes to prompts, in parts,
            so that a long prompt delays the others' next token by one such step and not by its whole length.
        keep_prefixes: keep the pages of requests that have ended, for others that begin alike, until room is needed.

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
