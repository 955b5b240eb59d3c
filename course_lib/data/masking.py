"""Which tokens are trained: ids and labels of a record, with -100 (`IGNORE`) where no loss is to be computed.

Checked token by token against TRL's SFTTrainer on real instructions in tests/parity/test_masking.py.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from course_lib.data.records import Record, RecordError
from course_lib.data.templates import InstructionFormatter, chat_text, header_of, with_chat_template
from course_lib.data.text import at_least_one
from course_lib.data.tokenizers import ModelTokenizer, Tokenizer
from course_lib.errors import CourseError
from course_lib.rounding import ceil_div

IGNORE = -100  # a label that is not trained on; torch's and transformers' convention

TEMPLATES = ("chat", "instruction")
TRAINED = ("response", "assistant", "all")
# What becomes of an example that is longer than the limit.
TOO_LONG = ("error", "skip", "cut-start", "cut-end")

Example = dict[str, list[int]]


def encode_record(
    record: Record,
    tokenizer: Tokenizer,
    *,
    template: str = "chat",
    train_on: str = "response",
    max_length: int | None = None,
) -> Example:
    """Turn a record into ids and labels.

    Args:
        record: the conversation.
        tokenizer: the model's.
        template: "chat" (the tokenizer's own) or "instruction" (the exercise's, closed by the end-of-text token).
        train_on: "response", the last turn; "assistant", every turn of the assistant's, each with the token that ends
            it; or "all". Turns in `record.untrained` are never trained.
        max_length: a longer example is cut at the end.

    Returns:
        {"input_ids", "labels"}, equally long. A label is its token's id, or IGNORE where it is not trained. The labels
        are not shifted: the loss compares position t with label t + 1.

    Raises:
        CourseError: an argument is not possible.
        RecordError: the template refuses the record, or no trained token would be left.
    """
    _check_choices(template, train_on)
    if max_length is not None:
        at_least_one(max_length=max_length)
    example = _encode(record, tokenizer, template, train_on)
    return _with_targets(record.source, shorten(example, max_length, "cut-end"), example, max_length)


def _check_choices(template: str, train_on: str) -> None:
    if template not in TEMPLATES or train_on not in TRAINED:
        raise CourseError(f"template={template!r}, train_on={train_on!r}: choose from {TEMPLATES} and {TRAINED}.")


def _encode(record: Record, tokenizer: Tokenizer, template: str, train_on: str) -> Example:
    """The example at its full length: the template's text, its ids, and which of them are trained."""
    try:
        if template == "instruction":
            ids, trained = _instruction(record, tokenizer)
        elif train_on == "assistant":
            ids, trained = _assistant_turns(record, with_chat_template(tokenizer))
        else:
            ids, trained = _chat_response(record, with_chat_template(tokenizer))
        if train_on == "all":
            trained = [True] * len(ids)
        if record.untrained and template == "chat":
            trained = _without_untrained(record, with_chat_template(tokenizer), trained)
    except RecordError as error:
        # The message is to name the record, once.
        known = record.source and not str(error).startswith(record.source)
        raise RecordError(f"{record.source}: {error}") if known else error from error
    return {"input_ids": ids, "labels": [i if t else IGNORE for i, t in zip(ids, trained, strict=True)]}


def _instruction(record: Record, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """The ids of the exercise's template, and which of them are trained: the response and the end-of-text token."""
    parts, formatter = record.alpaca(), InstructionFormatter()
    prompt = formatter.prompt(parts["instruction"], parts["input"])
    whole = formatter.format(**parts) + (getattr(tokenizer, "eos_token", None) or "")
    return _after(_ids(tokenizer, prompt), _ids(tokenizer, whole))


def _chat_response(record: Record, tokenizer: ModelTokenizer) -> tuple[list[int], list[bool]]:
    """The ids of the chat template, and which of them are trained: the last turn, from behind its header."""
    messages = list(record.messages)
    prompt = header_of(tokenizer, messages, len(messages) - 1)
    return _after(_chat_ids(tokenizer, prompt), _chat_ids(tokenizer, chat_text(tokenizer, messages)))


def _after(prompt: list[int], whole: list[int]) -> tuple[list[int], list[bool]]:
    """Train what follows the tokens that `prompt` and `whole` have in common at their beginning.

    A token may join the end of the prompt and the start of the response, and then it is the model's to predict.
    """
    common = 0
    for expected, found in zip(prompt, whole, strict=False):
        if expected != found:
            break
        common += 1
    return whole, [i >= common for i in range(len(whole))]


def _assistant_turns(record: Record, tokenizer: ModelTokenizer) -> tuple[list[int], list[bool]]:
    """Every assistant's turn, from behind the role's header to the token that ends the turn.

    A template that marks these turns itself ({% generation %}) is believed. For any other one, each turn is found by
    rendering the conversation up to it. This works where a conversation's text begins with the text of its first turns.
    """
    messages = list(record.messages)
    whole = chat_text(tokenizer, messages)
    if re.search(r"{%-?\s*generation\b", str(tokenizer.chat_template)):
        out = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return out["input_ids"], [bool(m) for m in out["assistant_masks"]]
    turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
    return _chat_ids(tokenizer, whole), _in_turns(tokenizer, messages, turns, whole)


def _without_untrained(record: Record, tokenizer: ModelTokenizer, trained: list[bool]) -> list[bool]:
    """`trained` without the tokens of the turns that the data set gives no weight."""
    messages = list(record.messages)
    inside = _in_turns(tokenizer, messages, sorted(record.untrained), chat_text(tokenizer, messages))
    return [t and not i for t, i in zip(trained, inside, strict=True)]


def _in_turns(tokenizer: ModelTokenizer, messages: list[dict], turns: list[int], whole: str) -> list[bool]:
    """Which tokens of the text `whole` are in one of the turns: one value for each token."""
    spans = [_span(tokenizer, messages, turn, whole) for turn in turns]
    # Offsets say which characters of the text each token covers: (start, end).
    offsets = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    # A token on the border counts: it is partly the model's to write.
    return [any(a < end and start < b for start, end in spans) for a, b in offsets]


def _span(tokenizer: ModelTokenizer, messages: list[dict], turn: int, whole: str) -> tuple[int, int]:
    """Where in the text `whole` the turn's content begins and its end-of-turn token ends."""
    before = header_of(tokenizer, messages, turn)
    through = chat_text(tokenizer, messages[: turn + 1])
    if not (whole.startswith(through) and through.startswith(before)):
        raise RecordError(
            f"The chat template changes turn {turn} when others follow it: mark the assistant's turns in it with "
            "{% generation %}, or train on the response alone."
        )
    return len(before), len(through.rstrip("\n"))  # a template's line break after the end of a turn is not the turn's


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text, with the special tokens that the tokenizer adds by itself."""
    return list(tokenizer(text)["input_ids"])


def _chat_ids(tokenizer: ModelTokenizer, text: str) -> list[int]:
    """The ids of a text to which the chat template has written the special tokens already."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclass
class Encoded:
    """Records as examples.

    Attributes:
        examples: the ones that can be trained on.
        names: where each example comes from.
        lengths: tokens of every record that the template takes, before anything is cut.
        cut: how many examples lost a part.
        problems: which records were left out, and why.
    """

    examples: list[Example] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    cut: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens of all examples."""
        return sum(len(example["labels"]) for example in self.examples)

    @property
    def trained(self) -> int:
        """Tokens that are trained."""
        return sum(label != IGNORE for example in self.examples for label in example["labels"])

    def __str__(self) -> str:
        return (
            f"{len(self.examples):,} examples of {self.tokens:,} tokens, {self.trained:,} of them trained; "
            f"{self.cut:,} cut, {len(self.problems):,} left out"
        )

    def add(self, name: str, whole: Example, max_length: int | None, too_long: str) -> None:
        """Add an example within the limit.

        Args:
            name: where it comes from.
            whole: the example at its full length.
            max_length: the limit; None for none.
            too_long: see `encode_records`.

        Raises:
            RecordError: it has to be left out, or too_long is "error" and it is too long.
        """
        self.lengths.append(len(whole["labels"]))
        example = _with_targets(name, shorten(whole, max_length, too_long), whole, max_length)
        self.cut += len(example["labels"]) < len(whole["labels"])
        self.examples.append(example)
        self.names.append(name)

    def within(self, max_length: int, too_long: str) -> "Encoded":
        """The same examples within a limit.

        Args:
            max_length: the limit.
            too_long: see `encode_records`.

        Returns:
            A new `Encoded`. Examples that are left out are named in its `problems`.

        Raises:
            RecordError: too_long is "error" and an example is too long.
        """
        limited = Encoded(problems=list(self.problems))
        for name, example in zip(self.names, self.examples, strict=True):
            try:
                limited.add(name, example, max_length, too_long)
            except RecordError as problem:
                if too_long == "error":
                    raise
                limited.problems.append(str(problem))
        return limited


def encode_records(
    records: Iterable[Record],
    tokenizer: Tokenizer,
    *,
    too_long: str = "error",
    max_length: int | None = None,
    template: str = "chat",
    train_on: str = "response",
) -> Encoded:
    """Turn records into ids and labels, as `encode_record` does for one.

    Args:
        records: the conversations.
        tokenizer: the model's.
        too_long: what becomes of a record of more than max_length tokens: "error" raises; "skip" leaves it out;
            "cut-start" cuts the beginning, so that the answer keeps its end; "cut-end" cuts the end, and leaves the
            record out where nothing of the answer would stay. What is left out is named in `problems`, and so is a
            record that the template refuses, unless too_long is "error".
        max_length: the limit; None for none.
        template: see `encode_record`.
        train_on: see `encode_record`.

    Returns:
        The examples, and what was cut or left out.

    Raises:
        CourseError: an argument is not possible.
        RecordError: too_long is "error" and a record is too long, or the template refuses it.
    """
    _check_choices(template, train_on)
    if too_long not in TOO_LONG:
        raise CourseError(f"too_long={too_long!r}: choose one of {', '.join(TOO_LONG)}.")
    if max_length is not None:
        at_least_one(max_length=max_length)
    encoded = Encoded()
    for record in records:
        try:
            encoded.add(record.source, _encode(record, tokenizer, template, train_on), max_length, too_long)
        except RecordError as problem:
            if too_long == "error":
                raise
            encoded.problems.append(str(problem))
    return encoded


def shorten(example: Example, limit: int | None, too_long: str) -> Example | None:
    """Bring an example within a limit.

    Args:
        example: {"input_ids", "labels"}.
        limit: how many tokens it may have; None for any number.
        too_long: one of `TOO_LONG`.

    Returns:
        The example, cut where it has to be; None where it has to be left out.
    """
    size = len(example["labels"])
    if limit is None or size <= limit:
        return example
    if too_long in ("error", "skip"):
        return None
    kept = slice(size - limit, size) if too_long == "cut-start" else slice(0, limit)
    return {key: values[kept] for key, values in example.items()}


def _with_targets(name: str, example: Example | None, whole: Example, limit: int | None) -> Example:
    """`example`, unless it was left out or nothing in it is trained: then RecordError with the reason."""
    said = f"{name or 'A record'}: its {len(whole['labels']):,} tokens"
    if example is None:
        raise RecordError(f"{said} are more than the limit of {limit:,}.")
    if any(label != IGNORE for label in example["labels"]):
        return example
    if len(example["labels"]) < len(whole["labels"]):
        raise RecordError(f"{said} cut to {limit:,} leave nothing of the response.")
    raise RecordError(f"{said} have none that is to be trained.")


def fitting_length(lengths: list[int], share: float = 0.99) -> int:
    """The length within which a share of the examples fits, rounded up to a multiple of 8.

    Args:
        lengths: tokens of each example.
        share: above 0 and at most 1.

    Returns:
        The length, in tokens.
    """
    exact = int(np.quantile(lengths, share, method="higher"))
    return ceil_div(exact, 8) * 8
