"""What one call may ask of the server."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The bounds of one call. What is beyond them gets an answer of the 400s, never a crash.

    Args:
        max_body_bytes: of the body of a call.
        max_prompt_tokens: of a prompt; None: what the model has room for.
        max_new_tokens: of an answer.
        time_limit: seconds from a call's arrival to the last token of its answer.
        body_time_limit: seconds that the body of a call may take to arrive.
        max_answers: answers in one call, which is prompts times `n`.
        max_positions: tokens of prompt and answer together; None: what the model has room for.
    """

    max_body_bytes: int = 1_000_000
    max_prompt_tokens: int | None = None
    max_new_tokens: int = 1024
    time_limit: float = 300.0
    body_time_limit: float = 30.0
    max_answers: int = 8
    max_positions: int | None = None
