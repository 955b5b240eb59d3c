"""A text as it comes, in pieces that never split a character."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from course_lib.data.tokenizers import ModelTokenizer
from course_lib.inference.caches import Cache
from course_lib.inference.generate import decode_steps, prompt_ids
from course_lib.inference.sampling import SamplingSettings
from course_lib.inference.stopping import Row, as_set, end_tokens

UNFINISHED = "\ufffd"  # what a decoder writes for bytes that are no character


class TextPieces:
    """Token ids in, text out: a piece is what a token adds, once it is a whole number of characters.

    A token of a byte-level tokenizer is a piece of UTF-8, which can end within a character, and some tokenizers drop
    the blank before a text's first token. So a few tokens before the new ones are decoded along with them, and a piece
    that ends in an unfinished character waits for the next token. All pieces joined are `tokenizer.decode` of all
    tokens.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer: ModelTokenizer):
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.start = self.read = 0  # the tokens decoded for context, and those whose text is out

    def add(self, tokens: Iterable[int], last: bool = False) -> str:
        """Take new tokens.

        Args:
            tokens: their ids.
            last: nothing follows, so nothing waits any longer.

        Returns:
            The text that has become certain, maybe none.
        """
        self.tokens += tokens
        before = self.tokenizer.decode(self.tokens[self.start : self.read])
        now = self.tokenizer.decode(self.tokens[self.start :])
        if len(now) <= len(before) and not last:
            return ""
        if now.endswith(UNFINISHED) and not last:
            return ""
        self.start, self.read = self.read, len(self.tokens)
        return now[len(before) :]


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
) -> Iterator[str]:
    """Continue one text, and yield it piece by piece as it is generated.

    The pieces joined are the text that `complete` returns for the same settings. No piece splits a character, and none
    holds the beginning of a stop sequence.

    Args:
        model: as for `generate`.
        tokenizer: the model's.
        prompt: a text, or its token ids.
        max_new_tokens: how many tokens to add at most.
        cache: as for `generate`, like all that follow but those below.
        temperature: see `generate`.
        top_k: see `generate`.
        top_p: see `generate`.
        min_p: see `generate`.
        repetition_penalty: see `generate`.
        stop: sequences at which the text ends, as token ids or as texts whose tokens are meant.
        eos_token_id: None stands for the tokenizer's and the model's.
        seed: of the draws.
        from_template: see `complete`.

    Yields:
        Pieces of text, none of them empty.

    Raises:
        CourseError: as for `generate`, before the first piece.
    """
    settings = SamplingSettings(temperature, top_k, top_p, min_p, repetition_penalty)
    ids = prompt_ids(tokenizer, prompt, from_template) if isinstance(prompt, str) else list(prompt)
    ends = end_tokens(model, tokenizer) if eos_token_id is None else as_set(eos_token_id)
    sequences = [_as_tokens(tokenizer, sequence) for sequence in stop]
    row, pieces = Row(ends, sequences), TextPieces(tokenizer)
    for (fresh,) in decode_steps(model, [ids], max_new_tokens, [row], settings, cache, seed):
        if piece := pieces.add(fresh, last=row.done):
            yield piece


def _as_tokens(tokenizer: ModelTokenizer, sequence: str | Sequence[int]) -> list[int]:
    if isinstance(sequence, str):
        return list(tokenizer(sequence, add_special_tokens=False)["input_ids"])
    return list(sequence)
