"""Turns the body of a call into requests of the engine: finds the model, the token ids, and the room for the answer."""

import asyncio
import copy
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi.concurrency import run_in_threadpool

from course_lib.data.records import RecordError
from course_lib.data.templates import chat_text
from course_lib.data.tokenizers import ModelTokenizer, has_chat_template
from course_lib.inference.generate import prompt_ids
from course_lib.inference.sampling import SamplingSettings
from course_lib.inference.server.limits import Limits
from course_lib.inference.server.metrics import Metrics
from course_lib.inference.server.problems import Problem
from course_lib.inference.server.requests import Engine, Request, Ticket
from course_lib.inference.server.schemas import Message, Sampling, ServedModel


@dataclass
class Call:
    """A call that is being answered: the tickets of its answers, and when its time is over.

    Args:
        tickets: one for each answer.
        requests: the request of each ticket.
        model: the name of the model that the answer states.
        started: when the call arrived, on the clock of `time.perf_counter`.
        deadline: when its time is over, on the event loop's clock.
    """

    tickets: list[Ticket]
    requests: list[Request]
    model: str
    started: float
    deadline: float

    def cancel(self) -> None:
        """Cancel every answer, because nobody waits for them any more."""
        for ticket in self.tickets:
            ticket.cancel()


class Service:
    """What all routes need: the engine, the tokenizer, the names of the models, and the limits.

    Args:
        engine: generates the answers.
        tokenizer: the tokenizer of the model. The service uses a copy, because the engine decodes with this one in
            another thread.
        base: the name by which calls ask for the base model.
        limits: what a call may ask for.
        metrics: where the times are noted.
    """

    def __init__(self, engine: Engine, tokenizer: ModelTokenizer, base: str, limits: Limits, metrics: Metrics):
        self.engine, self.base, self.limits, self.metrics = engine, base, limits, metrics
        self.tokenizer = copy.deepcopy(tokenizer)
        self.created = int(time.time())
        self.one_at_a_time = asyncio.Lock()  # a tokenizer is not made for use by several threads

    @property
    def default(self) -> str:
        """The model that answers a call without a model's name: the first adapter, or the base if there is none."""
        return self.engine.adapters[0] if self.engine.adapters else self.base

    @property
    def positions(self) -> int:
        """How many tokens a prompt and its answer may have together."""
        most = self.engine.max_positions
        return most if self.limits.max_positions is None else min(most, self.limits.max_positions)

    @property
    def room(self) -> int:
        """How many tokens a prompt may have."""
        most = self.positions - 1
        return most if self.limits.max_prompt_tokens is None else min(most, self.limits.max_prompt_tokens)

    def models(self) -> list[ServedModel]:
        """What is said about the base and about each adapter."""
        return [self.model(name) for name in (self.base, *self.engine.adapters)]

    def model(self, name: str) -> ServedModel:
        """What is said about one model. Raises Problem if there is none of that name."""
        adapter = self.adapter(name)
        return ServedModel(
            id=name,
            created=self.created,
            parent=self.base if adapter else None,
            max_model_len=self.positions,
            chat=has_chat_template(self.tokenizer),
        )

    def adapter(self, model: str) -> str | None:
        """The adapter that a model's name means; None for the base. Raises Problem if there is none of that name."""
        if model == self.base:
            return None
        if model in self.engine.adapters:
            return model
        known = ", ".join((self.base, *self.engine.adapters))
        raise Problem(404, f"There is no model {model[:100]!r} here. There are: {known}.", "model", "model_not_found")

    async def text_ids(self, text: str) -> tuple[int, ...]:
        """The token ids of a text that is to be continued."""
        async with self.one_at_a_time:
            return tuple(await run_in_threadpool(prompt_ids, self.tokenizer, text))

    async def chat_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The token ids of a conversation, up to where the assistant's answer begins.

        Raises Problem if the model has no chat template, or if the template refuses the conversation.
        """
        if not has_chat_template(self.tokenizer):
            raise Problem(422, "This model has no chat template. Use /v1/completions or /generate.", "messages")
        turns = [message.plain() for message in messages]
        async with self.one_at_a_time:
            try:
                text = await run_in_threadpool(chat_text, self.tokenizer, turns, True)
            except RecordError as error:
                raise Problem(422, str(error).rstrip(".") + ".", "messages") from error
            return tuple(await run_in_threadpool(prompt_ids, self.tokenizer, text, True))

    def refuse_more_answers(self, wanted: int) -> None:
        """Raise Problem if a call asks for more answers than one call may."""
        if wanted > self.limits.max_answers:
            most = self.limits.max_answers
            raise Problem(422, f"One call gets at most {most} answers (prompts times n); this asks for {wanted}.", "n")

    def check_ids(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Check token ids that a client sent, and return them. Raises Problem if the tokenizer has no such token."""
        wrong = next((token for token in ids if not 0 <= token < len(self.tokenizer)), None)
        if wrong is not None:
            raise Problem(
                422, f"prompt: there is no token {wrong}. Ids go from 0 to {len(self.tokenizer) - 1}.", "prompt"
            )
        return tuple(ids)

    def request(
        self,
        ids: tuple[int, ...],
        body: Sampling,
        model: str,
        wanted: int | None,
        usual: int | None = None,
        **more: bool,
    ) -> Request:
        """Make one request for the engine.

        Args:
            ids: the token ids of the prompt.
            body: how tokens are chosen, and where the answer ends.
            model: the name of the model that is to answer.
            wanted: how many tokens the answer may have; None stands for the usual number.
            usual: that usual number, which is lowered if there is less room; None takes all the room that the limits
                leave.
            more: further fields of the request.

        Returns:
            The request.

        Raises:
            Problem: the prompt is too long, more new tokens are asked for than the limit allows, or there is no model
                of that name.
        """
        if len(ids) > self.room:
            message = f"The prompt has {len(ids)} tokens, and at most {self.room} are possible. Shorten it."
            raise Problem(400, message, code="context_length_exceeded")
        if wanted is not None and wanted > self.limits.max_new_tokens:
            raise Problem(
                422, f"At most {self.limits.max_new_tokens} new tokens are possible; {wanted} were asked for."
            )
        most = min(self.limits.max_new_tokens, self.positions - len(ids))
        return Request(
            prompt=ids,
            max_new_tokens=min(most, usual or most) if wanted is None else wanted,
            sampling=SamplingSettings(
                body.temperature, max(0, body.top_k), body.top_p, body.min_p, body.repetition_penalty
            ),
            stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop),
            adapter=self.adapter(model),
            seed=secrets.randbits(32) if body.seed is None else body.seed,
            **more,
        )

    def submit(self, requests: list[Request], model: str, started: float) -> Call:
        """Queue all requests of a call, or none of them.

        Args:
            requests: the requests, at least one.
            model: the name of the model that the answer states.
            started: when the call arrived, on the clock of `time.perf_counter`.

        Returns:
            The call. The caller has to cancel it at the end, however it ends.

        Raises:
            CourseError: the engine refuses one of the requests.
        """
        spent = time.perf_counter() - started
        deadline = asyncio.get_running_loop().time() + self.limits.time_limit - spent
        call = Call([], requests, model, started, deadline)
        try:
            for request in requests:
                call.tickets.append(self.engine.submit(request))
        except BaseException:
            call.cancel()
            raise
        return call
