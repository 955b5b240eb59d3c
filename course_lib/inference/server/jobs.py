"""One request inside the engine: its tokens so far, what it holds of the cache, and how its next token is chosen."""

import torch
from torch import Tensor

from course_lib.data.tokenizers import ModelTokenizer
from course_lib.inference.pieces import Answer
from course_lib.inference.sampling import mark_seen
from course_lib.inference.server.prefixes import Held
from course_lib.inference.server.requests import Piece, Request
from course_lib.inference.server.tickets import PieceQueue


class Job:
    """A request on its way.

    It draws from a generator of its own, so that its draws do not depend on who else is served.

    Args:
        request: what was asked for.
        ticket: where the pieces go.
        ends: the model's end tokens.
        tokenizer: the model's; None: answers have no text.

    Raises:
        CourseError: a stop text cannot be looked for.
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
        """How many tokens were added."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is chosen as it is."""
        return self.request.sampling.temperature == 0 and self.request.sampling.repetition_penalty == 1

    def choose(self, logits: Tensor) -> int:
        """The next token by the request's settings; logits are (vocabulary,)."""
        sampling = self.request.sampling
        if sampling.repetition_penalty != 1:
            if self._seen is None:
                self._seen = mark_seen([self.tokens], len(logits))
            self._seen[0, self.tokens[-1]] = True
        return int(sampling.choose(logits[None], self._seen, self._generator))

    def take(self, token: int) -> None:
        """Add the chosen token to the answer, and hand on what has become certain."""
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
        """End the answer before its time.

        Args:
            reason: "cancelled" or "error".
            error: a sentence, for an error.
        """
        self.done = True
        self.ticket.put(Piece(finish_reason=reason, error=error))
