"""The engine: one thread that computes the answers to many clients at once, step by step. For example::

    engine = load_engine("smollm2-135m-instruct", {"pirate": "runs/pirate"}, weights="int8")
    for piece in engine.submit(Request(prompt, max_new_tokens=64, adapter="pirate")):
        print(piece.text, end="")

`scheduler` decides which tokens a step reads, `rows` computes them, and `prefixes` holds the pages. Left out: several
processes or GPUs, and models other than Llamas; vLLM has those (`course serve --backend vllm`).
"""

import threading
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from course_lib.data.tokenizers import ModelTokenizer
from course_lib.errors import CourseError
from course_lib.inference.server.jobs import Job
from course_lib.inference.server.mixed import prepare_mixed
from course_lib.inference.server.requests import QueueFull, Request, TooLong, check_request
from course_lib.inference.server.rows import RowModel
from course_lib.inference.server.scheduler import Scheduler
from course_lib.inference.server.settings import EngineSettings
from course_lib.inference.server.tickets import PieceQueue
from course_lib.inference.stopping import end_tokens


class BatchingEngine:
    """An `Engine` with continuous batching over a paged cache. Its thread runs from the start until `shut_down`.

    Args:
        model: a Llama, ours or transformers'. The layers of the adapters are put into it.
        tokenizer: the tokenizer of the model; without one, answers are tokens without text.
        adapters: the folder of each adapter, by the name that requests use.
        settings: the limits of the engine.
        weights: the format of the base, see `prepare`.

    Raises:
        CourseError: the model is not a Llama, or an adapter is not a LoRA adapter for it.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: ModelTokenizer | None = None,
        adapters: Mapping[str, Path | str] | None = None,
        settings: EngineSettings | None = None,
        weights: str = "float32",
    ):
        self.settings, self.tokenizer = settings or EngineSettings(), tokenizer
        self.adapters = tuple(adapters or ())
        self._ends = end_tokens(model, tokenizer)
        self.prepared, stacks = prepare_mixed(model, adapters or {}, weights)
        config = self.prepared.config
        self.max_positions, self._vocabulary = config.max_position_embeddings, len(self.prepared.embedding)
        rows = RowModel(self.prepared, self.settings.max_pages, self.settings.page_size, stacks)
        numbers = {name: number for number, name in enumerate(self.adapters)}
        self.scheduler = Scheduler(rows.read, self.settings, numbers)
        self._changed = threading.Condition()  # guards all that follows, and what is added to the scheduler's queue
        self._stopping, self._requests, self._prompt_tokens, self._woken = False, 0, 0, False
        self._stepping = threading.Lock()  # held while the scheduler is at work
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> PieceQueue:
        """Queue a request without waiting for its answer. Any thread may call this.

        Args:
            request: the request.

        Returns:
            The ticket of the request, which yields the pieces of the answer.

        Raises:
            QueueFull: too many requests wait.
            UnknownAdapter: the adapter's name is not known.
            TooLong: prompt and answer cannot fit.
            CourseError: the prompt is empty or holds ids that the model does not have, there is nothing to generate, a
                stop text is empty, or the engine is stopping.
        """
        self._check(request)
        job = Job(request, PieceQueue(self._wake), self._ends, self.tokenizer)
        with self._changed:
            if self._stopping:
                raise CourseError("The engine is stopping and takes no more requests.")
            # Those that were cancelled since the last step have given up their places.
            waiting = sum(not queued.ticket.cancelled for queued in list(self.scheduler.waiting))
            if waiting >= self.settings.max_queue:
                raise QueueFull(waiting, retry_after=1 + waiting / self.settings.max_batch)
            self._requests += 1
            self._prompt_tokens += len(request.prompt)
            self.scheduler.waiting.append(job)
            self._woken = True
            self._changed.notify_all()
        return job.ticket

    def _check(self, request: Request) -> None:
        check_request(request, self.adapters, self.max_positions)
        if not all(0 <= token < self._vocabulary for token in request.prompt):
            raise CourseError(f"The prompt holds a token id that is not in 0 to {self._vocabulary - 1}.")
        pages, tokens = self.settings.max_pages, len(request.prompt) + request.max_new_tokens
        if tokens - 1 > pages * self.settings.page_size:  # the last token is not read, so it takes no slot
            raise TooLong(
                f"A prompt of {len(request.prompt)} tokens and {request.max_new_tokens} new ones do not fit into "
                f"{pages} pages of {self.settings.page_size} tokens: ask for less, or start the server with more pages."
            )

    def _wake(self) -> None:
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def _run(self) -> None:
        """The thread: a step after the other, and sleep where there is nothing to do."""
        while True:
            with self._changed:
                self._woken = False
            try:
                with self._stepping:
                    did_something = self.scheduler.step()
                if did_something:
                    continue
            except Exception as error:  # nobody may wait for ever, whatever it was
                self.scheduler.fail_all(error)
            with self._changed:
                if self._stopping and not self._woken:
                    return
                self._changed.wait_for(lambda: self._woken or self._stopping)

    def statistics(self) -> dict[str, float]:
        """Counts since the start and the present state, for /metrics.

        Returns:
            Numbers by name. `pages_used` counts the pages of running requests; `pages_kept` counts pages that are kept
            for a later request with the same beginning.
        """
        scheduler, pages = self.scheduler, self.scheduler.pages
        kept = pages.kept
        return {
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting),
            "pages_used": pages.pool.used_pages - kept,
            "pages_kept": kept,
            "pages_total": self.settings.max_pages,
            "requests_total": self._requests,
            "tokens_total": scheduler.counts.tokens,
            "prompt_tokens_total": self._prompt_tokens,
            "prefix_tokens_shared_total": scheduler.counts.prefix_tokens_shared,
            "cancelled_total": scheduler.counts.cancelled,
            "errors_total": scheduler.counts.errors,
            "set_back_total": scheduler.counts.set_back,
        }

    def drop_kept_prefixes(self) -> None:
        """Free the pages that are kept for later requests with the same beginning."""
        with self._stepping:
            self.scheduler.pages.drop_kept()

    def shut_down(self, finish: bool = True) -> None:
        """Accept no more requests, finish or cancel the accepted ones, and stop the engine's thread.

        Args:
            finish: whether to finish accepted requests; otherwise they end with "cancelled".
        """
        with self._changed:
            self._stopping = True
            if not finish:
                for job in [*self.scheduler.running, *self.scheduler.waiting]:
                    job.ticket.cancelled = True
            self._woken = True
            self._changed.notify_all()
        self._thread.join()


def load_engine(
    model: str,
    adapters: Mapping[str, Path | str] | None = None,
    settings: EngineSettings | None = None,
    weights: str = "float32",
) -> BatchingEngine:
    """Start an engine for a model, by its name or folder.

    Args:
        model: see `models.pretrained.load`.
        adapters: as for `BatchingEngine`.
        settings: as for `BatchingEngine`.
        weights: as for `BatchingEngine`.

    Returns:
        The running engine.

    Raises:
        CourseError: the model or an adapter cannot be loaded or mixed.
    """
    from course_lib.models.pretrained import load

    loaded, tokenizer = load(model)
    return BatchingEngine(loaded, tokenizer, adapters, settings, weights)
