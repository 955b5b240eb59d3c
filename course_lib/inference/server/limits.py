"""The limits of one call to the server."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of one call. A call beyond them gets a status of the 400s and never crashes the server.

    Args:
        max_body_bytes: the largest body of a call, in bytes.
        max_prompt_tokens: the largest number of tokens of a prompt; None for as many as the model can take.
        max_new_tokens: the largest number of tokens of an answer.
        time_limit: how many seconds may pass from the arrival of a call to the last token of its answer.
        body_time_limit: how many seconds the body of a call may take to arrive.
        max_answers: the largest number of answers in one call, which is prompts times `n`.
        max_positions: the largest number of tokens of prompt and answer together; None for as many as the model can
            take.
    """

    max_body_bytes: int = 1_000_000
    max_prompt_tokens: int | None = None
    max_new_tokens: int = 1024
    time_limit: float = 300.0
    body_time_limit: float = 30.0
    max_answers: int = 8
    max_positions: int | None = None
