"""Stream a text while it is generated, in pieces that never split a character."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from course_lib.data.tokenizers import ModelTokenizer
from course_lib.errors import CourseError
from course_lib.inference.caches import Cache
from course_lib.inference.generate import decode_steps, prompt_ids
from course_lib.inference.pieces import Answer
from course_lib.inference.sampling import SamplingSettings
from course_lib.inference.stopping import Row, as_set, end_tokens


def stream(
    model: Any,
    tokenizer: ModelTokenizer,
    prompt: str | Sequence[int],
    max_new_tokens: int,
    *,
    cache: str | Cache = "static",
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: Sequence[str | Sequence[int]] = (),
    eos_token_id: int | Iterable[int] | None = None,
    seed: int = 0,
    from_template: bool = False,
    new_tokens: list[int] | None = None,
) -> Iterator[str]:
    """Continue one text, and yield it piece by piece as it is generated.

    The joined pieces are the text that `complete` returns for the same settings. No piece splits a character, and no
    piece contains the beginning of a stop sequence. A stop text may begin and end within tokens.

    Args:
        model: as for `generate`.
        tokenizer: the tokenizer of the model.
        prompt: a text, or its token ids.
        max_new_tokens: how many tokens to add at most.
        cache: see `generate`.
        temperature: see `generate`.
        top_k: see `generate`.
        top_p: see `generate`.
        min_p: see `generate`.
        repetition_penalty: see `generate`.
        stop: where the text ends: texts, or sequences of token ids.
        eos_token_id: the end tokens; None for those of the tokenizer and the model.
        seed: the seed of the draws.
        from_template: see `complete`.
        new_tokens: a list to which the ids of the new tokens are added as they come.

    Yields:
        Pieces of text, none of them empty.

    Raises:
        CourseError: as for `generate`, before the first piece.
    """
    settings = SamplingSettings(temperature, top_k, top_p, min_p, repetition_penalty)
    ids = prompt_ids(tokenizer, prompt, from_template) if isinstance(prompt, str) else list(prompt)
    ends = end_tokens(model, tokenizer) if eos_token_id is None else as_set(eos_token_id)
    texts, sequences = _by_kind(stop)
    row, answer = Row(ends, sequences), Answer(tokenizer, texts)
    for (fresh,) in decode_steps(model, [ids], max_new_tokens, [row], settings, cache, seed):
        certain, piece = answer.add(fresh, last=row.done)
        if new_tokens is not None:
            new_tokens += certain
        if piece:
            yield piece
        if answer.stopped:
            return


def _by_kind(stop: Sequence[str | Sequence[int]]) -> tuple[list[str], list[Sequence[int]]]:
    """The texts and the token sequences among the stops."""
    if isinstance(stop, str):
        raise CourseError(f"stop={stop!r} is one text: give a list of texts, [{stop!r}].")
    texts = [each for each in stop if isinstance(each, str)]
    return texts, [each for each in stop if not isinstance(each, str)]
