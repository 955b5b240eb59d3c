"""What the course asks of a tokenizer, as types: a tokenizer has these methods and need not inherit from anything.

The NumPy edition's `BPETokenizer` is a `Tokenizer`; those of transformers are a `ModelTokenizer` each.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard


class TextEncoder(Protocol):
    """It makes token ids of text."""

    def encode(self, text: str, /) -> list[int]:
        """The ids of `text`."""


class Tokenizer(TextEncoder, Protocol):
    """It makes ids of text, and text of ids."""

    def __call__(self, text: str, /) -> Mapping[str, Any]:
        """{"input_ids": the ids of `text`}."""

    def decode(self, ids: Sequence[int], /) -> str:
        """The text of `ids`."""


class ModelTokenizer(Tokenizer, Protocol):
    """A tokenizer that belongs to a model: it knows the model's special tokens and perhaps its chat template."""

    chat_template: str | None
    eos_token_id: int | None
    pad_token_id: int | None
    model_max_length: int

    def __len__(self) -> int:
        """How many ids there are, added tokens included."""

    def __call__(self, text: str | list[str], /, **options: Any) -> Mapping[str, Any]:
        """{"input_ids": the ids of `text`}, and what `options` ask for besides."""

    def apply_chat_template(self, conversation: list[dict[str, str]], /, **options: Any) -> Any:
        """The conversation as the model was trained to read it.

        Args:
            conversation: messages, each with "role" and "content".
            options: transformers' own, such as `tokenize` and `add_generation_prompt`.

        Returns:
            A text, or token ids with `tokenize=True`.
        """

    def save_pretrained(self, directory: Any, /) -> Any:
        """Write the tokenizer's files into `directory`."""


def is_model_tokenizer(tokenizer: object) -> TypeGuard[ModelTokenizer]:
    """Whether `tokenizer` is one of transformers, which saves itself beside a model, and not a `BPETokenizer`."""
    return hasattr(tokenizer, "save_pretrained")


def has_chat_template(tokenizer: object) -> TypeGuard[ModelTokenizer]:
    """Whether `tokenizer` can write a conversation."""
    return bool(getattr(tokenizer, "chat_template", None))
