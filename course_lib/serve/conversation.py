"""A conversation with a model in this process, for the terminal: turns, adapters, and text as it comes."""

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

from course_lib.adapters.files import load_adapter
from course_lib.adapters.layers import disable_adapters
from course_lib.adapters.lora import adapter_names, set_adapter
from course_lib.data.templates import chat_text
from course_lib.data.tokenizers import has_chat_template
from course_lib.errors import CourseError
from course_lib.inference import prepare, prompt_ids, stream
from course_lib.serve.loading import Loaded

BASE = "base"  # what stands for no adapter


class Conversation:
    """Turns with one base and its adapters.

    Args:
        loaded: the base and its adapters, which are put on it.
        weights: prepare the model for a CPU with weights in this format; None: as it is.
        system: a message of the system before all turns. None: the template decides, and some write one of their own,
            as SmolLM2's does ("You are a helpful AI assistant named SmolLM …"); "" keeps that away.
        options: those of `stream`.

    Raises:
        CourseError: an adapter does not fit, or is called "base".
    """

    def __init__(self, loaded: Loaded, weights: str | None = None, system: str | None = None, **options: Any):
        if BASE in loaded.adapters:
            raise CourseError(f"An adapter cannot be called {BASE} here. Give it another name: NAME=PATH.")
        self.model, self.tokenizer, self.weights, self.options = loaded.model, loaded.tokenizer, weights, options
        for name, folder in loaded.adapters.items():
            load_adapter(self.model, folder, name)
        self.model.eval()
        self.names = (BASE, *loaded.adapters)
        self.adapter = self.names[-1] if len(self.names) == 2 else BASE
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._prepared: dict[str, Any] = {}
        self.turns: list[dict[str, str]] = []
        self.new_tokens: list[int] = []  # of the last answer
        self.reset()

    def reset(self) -> None:
        """Forget all turns."""
        self.turns = list(self._system)

    def choose(self, name: str) -> None:
        """Answer with an adapter from now on, or with the base. Raises CourseError where there is none of that name."""
        if name not in self.names:
            raise CourseError(f"There is no adapter {name} here. There are: {', '.join(self.names)}.")
        self.adapter = name

    def ask(self, text: str, max_new_tokens: int) -> Generator[str, None, None]:
        """Answer a message. What has come when the reader stops is kept as the answer.

        Args:
            text: the message.
            max_new_tokens: tokens of the answer at most.

        Yields:
            Pieces of the answer.

        Raises:
            CourseError: the conversation and the answer do not fit into the model. The message is then not kept.
        """
        turns = [*self.turns, {"role": "user", "content": text}]
        ids, answer = self._ids(turns), ""
        self.new_tokens = []
        self._refuse_too_long(len(ids), max_new_tokens)
        with self._chosen() as model:
            try:
                counted = self.options | {"new_tokens": self.new_tokens}
                for piece in stream(model, self.tokenizer, ids, max_new_tokens, **counted):
                    answer += piece
                    yield piece
            finally:
                if answer:
                    self.turns = [*turns, {"role": "assistant", "content": answer}]

    def _ids(self, turns: list[dict[str, str]]) -> list[int]:
        if has_chat_template(self.tokenizer):
            return prompt_ids(self.tokenizer, chat_text(self.tokenizer, turns, True), from_template=True)
        # A model without a template has learnt no roles: the texts follow each other.
        texts = [turn["content"] for turn in turns if turn["content"]]
        return prompt_ids(self.tokenizer, "\n".join(texts))

    def _refuse_too_long(self, prompt: int, new: int) -> None:
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most is not None and prompt + new > most:
            raise CourseError(
                f"The conversation's {prompt} tokens and {new} more for the answer do not fit into the model's {most}. "
                "/reset begins a new one; --max-new-tokens says how many an answer may have."
            )

    @contextlib.contextmanager
    def _chosen(self) -> Iterator[Any]:
        """The model as it answers now."""
        if self.adapter == BASE:
            with disable_adapters(self.model):
                yield self._as_prepared()
            return
        if self.adapter in adapter_names(self.model):  # a butterfly has no name: it is the only one
            set_adapter(self.model, self.adapter)
        yield self._as_prepared()

    def _as_prepared(self) -> Any:
        if self.weights is None:
            return self.model
        if self.adapter not in self._prepared:
            self._prepared[self.adapter] = prepare(self.model, self.weights)
        return self._prepared[self.adapter]
