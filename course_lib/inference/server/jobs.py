"""One request inside the engine: its tokens so far, its part of the cache, and the choice of its next token."""

import torch
from torch import Tensor

from course_lib.data.tokenizers import ModelTokenizer
from course_lib.inference.pieces import Answer
from course_lib.inference.sampling import mark_seen
from course_lib.inference.server.prefixes import Held
from course_lib.inference.server.requests import Piece, Request
from course_lib.inference.server.tickets import PieceQueue


class Job:
    """A request that is being answered.

    It has a random generator of its own, so its draws do not depend on other requests.

    Args:
        request: the request.
        ticket: receives the pieces of the answer.
        ends: the end tokens of the model.
        tokenizer: the tokenizer of the model; without one, answers have no text.

    Raises:
        CourseError: there are stop texts but no tokenizer.
    """

    def __init__(self, request: Request, ticket: PieceQueue, ends: set[int], tokenizer: ModelTokenizer | None):
        self.request, self.ticket = request, ticket
        self.ends = set() if request.ignore_end else ends
        self.tokens = list(request.prompt)  # of the prompt and the answer
        self.held = Held(request.adapter)
        self.answer = Answer(tokenizer, request.stop)
        self.done = False
        self._generator = torch.Generator().manual_seed(request.seed)
        self._seen: Tensor | None = None

    @property
    def pending(self) -> int:
        """How many tokens the model has to read before the next one can be chosen: 1 once the prompt is read."""
        return len(self.tokens) - self.held.table.length

    @property
    def generated(self) -> int:
        """The number of new tokens."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def is_greedy(self) -> bool:
        """Whether the next token is simply the likeliest one."""
        return self.request.sampling.temperature == 0 and self.request.sampling.repetition_penalty == 1

    def choose(self, logits: Tensor) -> int:
        """Choose the next token with the settings of the request; logits are (vocabulary,)."""
        sampling = self.request.sampling
        if sampling.repetition_penalty != 1:
            if self._seen is None:
                self._seen = mark_seen([self.tokens], len(logits))
            self._seen[0, self.tokens[-1]] = True
        return int(sampling.choose(logits[None], self._seen, self._generator))

    def take(self, token: int) -> None:
        """Add the chosen token to the answer, and send the pieces that have become certain."""
        if token in self.ends:
            self._hand_on([], "stop")
            return
        self.tokens.append(token)
        self._hand_on([token], "length" if self.generated == self.request.max_new_tokens else None)

    def _hand_on(self, tokens: list[int], reason: str | None) -> None:
        certain, text = self.answer.add(tokens, last=reason is not None)
        if self.answer.stopped:
            reason = "stop"
        self.done = reason is not None
        if certain or text or reason:
            self.ticket.put(Piece(tuple(certain), text, reason))

    def end(self, reason: str, error: str | None = None) -> None:
        """End the answer early.

        Args:
            reason: "cancelled" or "error".
            error: a sentence that explains an error.
        """
        self.done = True
        self.ticket.put(Piece(finish_reason=reason, error=error))
