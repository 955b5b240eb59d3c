"""An engine for models that `engine` cannot batch, such as GPT-2, and for butterfly adapters.

It answers one request after another.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from course_lib.adapters.files import load_adapter
from course_lib.adapters.layers import disable_adapters
from course_lib.adapters.lora import adapter_names, set_adapter
from course_lib.data.tokenizers import ModelTokenizer
from course_lib.errors import CourseError, first_line
from course_lib.inference.generate import decode_steps
from course_lib.inference.pieces import Answer
from course_lib.inference.server.requests import Piece, QueueFull, Request, check_request
from course_lib.inference.server.tickets import PieceQueue
from course_lib.inference.stopping import Row, end_tokens


class PlainEngine:
    """An `Engine` that answers one request at a time, in the order of arrival.

    Args:
        model: any model that `generate` takes. The layers of the adapters are put into it.
        tokenizer: the tokenizer of the model.
        adapters: the folder of each adapter, by the name that requests use for it.
        max_queue: how many requests wait at most.

    Raises:
        CourseError: an adapter does not fit the model or the other adapters.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: ModelTokenizer,
        adapters: Mapping[str, Path | str] | None = None,
        max_queue: int = 64,
    ):
        self.model, self.tokenizer, self.max_queue = model, tokenizer, max_queue
        for name, folder in (adapters or {}).items():
            load_adapter(model, folder, name)
        model.eval()
        config: Any = model.config
        self.adapters, self.max_positions = tuple(adapters or ()), int(config.max_position_embeddings)
        self._ends = end_tokens(model, tokenizer)
        self._waiting: deque[tuple[Request, PieceQueue]] = deque()
        self._counts = dict.fromkeys(
            ("running", "requests_total", "tokens_total", "prompt_tokens_total", "cancelled_total", "errors_total"), 0
        )
        self._changed = threading.Condition()  # guards the queue and the next two
        self._stopping, self._finish = False, True
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> PieceQueue:
        """Queue a request.

        Args:
            request: the request.

        Returns:
            A ticket, from which the answer can be read.

        Raises:
            QueueFull: too many requests wait already.
            UnknownAdapter: the engine holds no adapter of that name.
            TooLong: prompt and answer together cannot fit.
            CourseError: the prompt is empty, the request asks for no new token, or the engine is stopping.
        """
        check_request(request, self.adapters, self.max_positions)
        ticket = PieceQueue(lambda: None)  # nothing to wake: the thread looks for a cancellation at every step
        with self._changed:
            if self._stopping:
                raise CourseError("The engine is stopping and takes no more requests.")
            waiting = sum(not queued.cancelled for _, queued in self._waiting)
            if waiting >= self.max_queue:
                raise QueueFull(waiting, retry_after=1.0 + waiting)
            self._counts["requests_total"] += 1
            self._counts["prompt_tokens_total"] += len(request.prompt)
            self._waiting.append((request, ticket))
            self._changed.notify_all()
        return ticket

    def _run(self) -> None:
        """Answer requests until the engine stops and none is left; this is the engine's thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if not self._waiting:
                    return
                request, ticket = self._waiting.popleft()
            if ticket.cancelled or not self._finish:  # its prompt need not be read
                self._cancel(ticket)
                continue
            self._counts["running"] = 1
            try:
                with self._chosen(request.adapter):
                    self._answer(request, ticket)
            except Exception as error:  # whatever the model raises ends this request, and the engine goes on
                self._counts["errors_total"] += 1
                sentence = f"The model failed on this request: {type(error).__name__}: {first_line(error)}"
                ticket.put(Piece(finish_reason="error", error=sentence))
            self._counts["running"] = 0

    def _cancel(self, ticket: PieceQueue) -> None:
        self._counts["cancelled_total"] += 1
        ticket.put(Piece(finish_reason="cancelled"))

    @contextlib.contextmanager
    def _chosen(self, adapter: str | None) -> Iterator[None]:
        """Within the block, the model is the base alone or has the adapter switched on."""
        if adapter is None:
            with disable_adapters(self.model):
                yield
            return
        if adapter in adapter_names(self.model):  # a butterfly has no name, because it is always the only adapter
            set_adapter(self.model, adapter)
        yield

    def _answer(self, request: Request, ticket: PieceQueue) -> None:
        """Generate the answer, and hand over each piece as soon as it is certain."""
        row = Row(() if request.ignore_end else self._ends)
        answer = Answer(self.tokenizer, request.stop)
        cache = "dynamic" if request.use_cache else "none"
        prompts, new = [list(request.prompt)], request.max_new_tokens
        for (fresh,) in decode_steps(self.model, prompts, new, [row], request.sampling, cache, request.seed):
            if ticket.cancelled or not self._finish:
                self._cancel(ticket)
                return
            tokens, text = answer.add(fresh)
            self._counts["tokens_total"] += len(fresh)
            if answer.stopped:
                ticket.put(Piece(tuple(tokens), text, "stop"))
                return
            if tokens or text:
                ticket.put(Piece(tuple(tokens), text))
        tokens, text = answer.add([], last=True)
        ended = answer.stopped or len(row.tokens) < new
        ticket.put(Piece(tuple(tokens), text, "stop" if ended else "length"))

    def statistics(self) -> dict[str, float]:
        """What has been counted since the start, and how many requests run and wait now."""
        return {**self._counts, "waiting": len(self._waiting)}

    def shut_down(self, finish: bool = True) -> None:
        """Take no more requests, and stop the thread once the requests that it has taken have ended.

        Args:
            finish: answer those requests to their end; False ends them with "cancelled".
        """
        with self._changed:
            self._stopping, self._finish = True, finish
            self._changed.notify_all()
        self._thread.join()
