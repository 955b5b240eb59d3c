"""When a row ends: at an end token, at a stop sequence, or when it has enough tokens."""

from collections.abc import Iterable, Sequence
from typing import Any

from course_lib.data.tokenizers import ModelTokenizer
from course_lib.errors import CourseError


class Row:
    """The new tokens of one row, and whether the row has ended.

    A token that may begin a stop sequence is held back until it is certain that it does not.

    Args:
        ends: the end tokens.
        stop: sequences of tokens at which the text ends; neither they nor the end token belong to the text.

    Raises:
        CourseError: a stop sequence is empty, or is not one of ids.

    Example:
        >>> row = Row(ends=[0], stop=[[7, 8]])
        >>> row.add(5), row.add(7), row.add(9)  # 7 waits until 9 shows that it does not begin a stop sequence
        ([5], [], [7, 9])
        >>> row.add(0), row.done, row.tokens
        ([], True, [5, 7, 9])
    """

    def __init__(self, ends: Iterable[int], stop: Sequence[Sequence[int]] = ()):
        for sequence in stop:
            if isinstance(sequence, str | int):  # the letters of a text would be compared with ids, and never be found
                raise CourseError(
                    f"The stop sequence {sequence!r} is not a list of token ids. Give lists of ids, such as [[7, 8]]; "
                    "`stream` takes texts as well."
                )
        self.ends, self.stop = set(ends), [list(sequence) for sequence in stop]
        if not all(self.stop):
            raise CourseError("A stop sequence is empty; each needs at least one token.")
        self.tokens: list[int] = []
        self.done = False
        self.released = 0

    def add(self, token: int) -> list[int]:
        """Take a new token.

        Returns:
            The tokens that are certain to belong to the text and were not returned before.
        """
        if self.done:
            return []
        if token in self.ends:
            return self.finish()
        self.tokens.append(token)
        found = [len(sequence) for sequence in self.stop if self.tokens[-len(sequence) :] == sequence]
        if found:
            del self.tokens[-max(found) :]  # of several that end here, the text ends before the first one begins
            return self.finish()
        return self._release(len(self.tokens) - self._held_back())

    def _held_back(self) -> int:
        """The length of the longest suffix of the text that is the beginning of a stop sequence."""
        longest = max((len(sequence) - 1 for sequence in self.stop), default=0)
        for length in range(min(longest, len(self.tokens)), 0, -1):
            if any(sequence[:length] == self.tokens[-length:] for sequence in self.stop):
                return length
        return 0

    def finish(self) -> list[int]:
        """End the row.

        Returns:
            The tokens that were held back.
        """
        self.done = True
        return self._release(len(self.tokens))

    def _release(self, until: int) -> list[int]:
        fresh = self.tokens[self.released : until]
        self.released = max(self.released, until)
        return fresh


def end_tokens(model: Any, tokenizer: ModelTokenizer | None = None) -> set[int]:
    """All tokens that end a text: that of the tokenizer, and those that the model's configuration names.

    A chat model ends a turn with a token of its own, which is often named only in generation_config.json: Llama 3
    Instruct has ``<|end_of_text|>``, ``<|eom_id|>`` and ``<|eot_id|>`` there, and only one of them in its tokenizer.

    Args:
        model: a transformers model, our decoder, or a model from `prepare`.
        tokenizer: the tokenizer of the model; None for the tokens of the configuration alone.

    Returns:
        The ids of the end tokens.
    """
    ends = as_set(getattr(tokenizer, "eos_token_id", None))
    for name in ("generation_config", "config"):
        if named := as_set(getattr(getattr(model, name, None), "eos_token_id", None)):
            return ends | named  # the first is what transformers' own `generate` goes by
    return ends


def as_set(ids: int | Iterable[int] | None) -> set[int]:
    """One id, several or none, as a set."""
    if ids is None:
        return set()
    return {ids} if isinstance(ids, int) else set(ids)
