"""An engine for the models that `engine` cannot batch, such as GPT-2, and for butterfly adapters: one after another."""

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
    """An `Engine` that answers one request at a time, in the order of their arrival.

    Args:
        model: any model that `generate` takes. The adapters' layers are put into it.
        tokenizer: the model's.
        adapters: the folder of each adapter, by the name that requests give.
        max_queue: requests that wait at most.

    Raises:
        CourseError: an adapter does not fit the model, or the others.
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
            request: what is asked for.

        Returns:
            Its ticket.

        Raises:
            QueueFull: too many wait.
            UnknownAdapter: the adapter's name is not known.
            TooLong: prompt and answer cannot fit.
            CourseError: the prompt is empty, there is nothing to generate, or the engine is stopping.
        """
        check_request(request, self.adapters, self.max_positions)
        ticket = PieceQueue(lambda: None)  # the thread looks at every step
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
        """Inside, the model is the base or has the adapter on."""
        if adapter is None:
            with disable_adapters(self.model):
                yield
            return
        if adapter in adapter_names(self.model):  # a butterfly has no name: it is the only one
            set_adapter(self.model, adapter)
        yield

    def _answer(self, request: Request, ticket: PieceQueue) -> None:
        row, answer = Row(() if request.ignore_end else self._ends), Answer(self.tokenizer, request.stop)
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
        """Counts since the start, and how many requests run and wait."""
        return {**self._counts, "waiting": len(self._waiting)}

    def shut_down(self, finish: bool = True) -> None:
        """Take no more requests, finish those that were taken (or cancel them), and stop the thread.

        Args:
            finish: False ends them with "cancelled".
        """
        with self._changed:
            self._stopping, self._finish = True, finish
            self._changed.notify_all()
        self._thread.join()
