"""Which tokens are trained: ids and labels of a record, with -100 (`IGNORE`) where no loss is to be computed.

Checked token by token against TRL's SFTTrainer on real instructions in tests/parity/test_masking.py.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from course_lib.data.records import Record
from course_lib.data.templates import InstructionFormatter, chat_text, with_chat_template
from course_lib.data.text import at_least_one
from course_lib.data.tokenizers import ModelTokenizer, Tokenizer
from course_lib.errors import CourseError

IGNORE = -100  # a label that is not trained on; torch's and transformers' convention

TEMPLATES = ("chat", "instruction")
TRAINED = ("response", "assistant", "all")


def encode_record(
    record: Record,
    tokenizer: Tokenizer,
    *,
    template: str = "chat",
    train_on: str = "response",
    max_length: int | None = None,
) -> dict[str, list[int]]:
    """{"input_ids", "labels"} of a record, equally long; a label is its token's id, or IGNORE where it is not trained.

    template: "chat" (the tokenizer's own) or "instruction" (the exercise's, closed by the end-of-text token).
    train_on: "response", the last turn; "assistant", every turn of the assistant's, each with the token that ends it;
    or "all". max_length: longer examples are cut at the end; CourseError where no trained token would be left.
    """
    if template not in TEMPLATES or train_on not in TRAINED:
        raise CourseError(f"template={template!r}, train_on={train_on!r}: choose from {TEMPLATES} and {TRAINED}.")
    if max_length is not None:
        at_least_one(max_length=max_length)
    if template == "instruction":
        ids, trained = _instruction(record, tokenizer)
    elif train_on == "assistant":
        ids, trained = _assistant_turns(record, with_chat_template(tokenizer))
    else:
        ids, trained = _chat_response(record, with_chat_template(tokenizer))
    labels = list(ids) if train_on == "all" else [i if t else IGNORE for i, t in zip(ids, trained, strict=True)]
    return _cut(record, {"input_ids": ids, "labels": labels}, max_length)


def _instruction(record: Record, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    parts, formatter = record.alpaca(), InstructionFormatter()
    prompt = formatter.prompt(parts["instruction"], parts["input"])
    whole = formatter.format(**parts) + (getattr(tokenizer, "eos_token", None) or "")
    return _after(_ids(tokenizer, prompt), _ids(tokenizer, whole))


def _chat_response(record: Record, tokenizer: ModelTokenizer) -> tuple[list[int], list[bool]]:
    prompt = chat_text(tokenizer, record.prompt, generation_prompt=True)
    whole = chat_text(tokenizer, list(record.messages))
    return _after(_chat_ids(tokenizer, prompt), _chat_ids(tokenizer, whole))


def _after(prompt: list[int], whole: list[int]) -> tuple[list[int], list[bool]]:
    """Train what follows the tokens that prompt and whole begin with alike: a token may join the end of the prompt and
    the start of the response, and then it is the model's to predict."""
    common = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
    return whole, [i >= common for i in range(len(whole))]


def _assistant_turns(record: Record, tokenizer: ModelTokenizer) -> tuple[list[int], list[bool]]:
    """Every assistant's turn, from behind the role's header to the token that ends the turn.

    A template that marks these turns itself ({% generation %}) is believed. For any other the turns are found by
    rendering the conversation up to each, which asks of the template that a conversation's text begins with the text of
    its first turns.
    """
    messages = list(record.messages)
    whole = chat_text(tokenizer, messages)
    if re.search(r"{%-?\s*generation\b", str(tokenizer.chat_template)):
        out = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return out["input_ids"], [bool(m) for m in out["assistant_masks"]]
    spans = [_span(tokenizer, messages, turn, whole) for turn, m in enumerate(messages) if m["role"] == "assistant"]
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    trained = [any(a < end and start < b for start, end in spans) for a, b in encoded["offset_mapping"]]
    return encoded["input_ids"], trained


def _span(tokenizer: ModelTokenizer, messages: list[dict], turn: int, whole: str) -> tuple[int, int]:
    """Where in the text `whole` the turn's content begins and its end-of-turn token ends."""
    before = chat_text(tokenizer, messages[:turn], generation_prompt=True)
    through = chat_text(tokenizer, messages[: turn + 1])
    if not (whole.startswith(through) and through.startswith(before)):
        raise CourseError(
            f"The chat template changes turn {turn} when others follow it: mark the assistant's turns in it with "
            "{% generation %}, or train on the response alone."
        )
    return len(before), len(through.rstrip("\n"))  # a template's line break after the end of a turn is not the turn's


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])


def _chat_ids(tokenizer: ModelTokenizer, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])  # the template has written them


@dataclass
class Encoded:
    """Examples, how many of them were cut, and what was left out and why."""

    examples: list[dict[str, list[int]]] = field(default_factory=list)
    cut: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        trained = sum(label != IGNORE for example in self.examples for label in example["labels"])
        total = sum(len(example["labels"]) for example in self.examples)
        return (
            f"{len(self.examples):,} examples of {total:,} tokens, {trained:,} of them trained; "
            f"{self.cut:,} cut, {len(self.problems):,} left out"
        )


def encode_records(records: list[Record], tokenizer: Tokenizer, *, too_long: str = "refuse", **options: Any) -> Encoded:
    """`encode_record` of each. too_long: what to do with a record of whose response nothing would be left, "refuse" or
    "skip" (it is then counted and named in `problems`)."""
    if too_long not in ("refuse", "skip"):
        raise CourseError(f"too_long={too_long!r}: choose 'refuse' or 'skip'.")
    encoded, limit = Encoded(), options.pop("max_length", None)
    if limit is not None:
        at_least_one(max_length=limit)
    for record in records:
        whole = encode_record(record, tokenizer, **options)
        try:
            example = _cut(record, whole, limit)
        except CourseError as problem:
            if too_long == "refuse":
                raise
            encoded.problems.append(str(problem))
            continue
        encoded.cut += len(example["labels"]) < len(whole["labels"])
        encoded.examples.append(example)
    return encoded


def _cut(record: Record, example: dict[str, list[int]], limit: int | None) -> dict[str, list[int]]:
    if all(label == IGNORE for label in example["labels"][:limit]):
        size = len(example["labels"])
        raise CourseError(
            f"{record.source or 'A record'}: its {size:,} tokens cut to {limit} leave nothing of the response."
        )
    return {key: values[:limit] for key, values in example.items()}
