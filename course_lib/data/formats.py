"""The published formats: a function for each one parses its rows into records (`Record`).

Which format a row has is told by its keys. Checked in tests/data/test_formats.py against rows written as the data sets'
own pages show them.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from course_lib.data.fields import Fields, Names, is_empty, parsed, says_no
from course_lib.data.preferences import PROMPTS, parse_alpaca_preference, parse_hh, parse_preference
from course_lib.data.records import Malformed, Record, ask, reply
from course_lib.data.trees import parse_openassistant
from course_lib.data.turns import read_turns
from course_lib.errors import CourseError
from course_lib.suggestions import did_you_mean

SYSTEM = ("system", "system_prompt", "system_message")
# Fields beside any format that change what the model reads, and that a record of text has no place for.
NOT_TEXT = frozenset({"tools", "functions", "image", "images", "audio", "audios", "video", "videos"})
# Flags of KTO's data: a false one marks an answer that is not to be learnt.
GOOD = ("label", "kto_tag")
ANSWERS = ("completion", "output", "solution", "targets", "target", "answer")
QUESTIONS = ("query", "question", "input", "inputs", "problem")


class UnknownFormat(Malformed):
    """A row of no format that is known."""


@dataclass(frozen=True)
class Format:
    """One published format.

    Attributes:
        keys: those that tell a row of this format.
        parse: the records of a row.
        describes: its keys in words, for messages.
        aliases: other names of its keys.
        optional: keys that a row can do without, although they help to tell the format.
    """

    keys: frozenset[str]
    parse: Callable[[Fields], list[Record]]
    describes: str
    aliases: Mapping[str, Names] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()

    def fits(self, keys: Collection[str]) -> bool:
        """Whether each of the format's keys is among `keys`, under any of its names."""
        return all(key in keys or any(name in keys for name in self.aliases.get(key, ())) for key in self.keys)


def parse_alpaca(row: Fields) -> list[Record]:
    """Stanford Alpaca: {"instruction", "input", "output"}; "input" may be empty or absent.

    Dolly's {"instruction", "context", "response"} is read in the same way. LLaMA-Factory adds "history": earlier pairs
    of question and answer.

    Raises:
        Malformed: a field is missing, empty or not a text.
    """
    given = row.text("input", empty=True) if row.get("input") is not None else ""
    asked, answered = ask(row.text("instruction"), given), reply(row.text("output"))
    return [Record((*_history(row), asked, answered), input=given)]


def _history(row: Fields) -> list[dict[str, str]]:
    """The turns before the instruction."""
    pairs, turns = parsed(row.get("history"), "history"), []
    if is_empty(pairs):
        return []
    if not isinstance(pairs, list):
        raise Malformed(f"'history' is of type {type(pairs).__name__}, expected a list of pairs")
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise Malformed("'history' holds something else than pairs of a question and an answer")
        turns += [ask(pair[0]), reply(pair[1])]
    return turns


def parse_chat(row: Fields) -> list[Record]:
    """{"messages": [{"role", "content"}, ...]}, or ShareGPT's {"conversations": [{"from", "value"}, ...]}."""
    key = "messages" if row.values.get("messages") is not None else "conversations"
    conversation = read_turns(row, key).answered(row.name_of(key))
    return [Record(tuple(conversation.turns), untrained=conversation.untrained)]


def parse_gsm8k(row: Fields) -> list[Record]:
    """GSM8K (Cobbe et al. 2021, arXiv:2110.14168): the final answer stands after "####".

    Calculator marks such as ``<<16-3-4=9>>`` are taken out of the solution.
    """
    solution = re.sub(r"<<[^<>]*>>", "", row.text("answer"))
    reasoning, *finals = (part.strip() for part in solution.split("####"))
    if not finals:
        raise Malformed(
            "'answer' has no final answer after one '####', so this is not GSM8K "
            "(--map prompt=question,response=answer reads it as plain text)"
        )
    if len(finals) != 1 or not finals[0] or "\n" in finals[0]:
        raise Malformed("'answer' has no final answer after one '####', on the same line")
    # The commas of 1,000 are for readers; a verifier compares numbers.
    answer = re.sub(r"(?<=\d),(?=\d{3})", "", finals[0])
    text = f"{reasoning}\n#### {answer}" if reasoning else f"#### {answer}"
    return [Record((ask(row.text("question")), reply(text)), answer=answer)]


def parse_prompt_response(row: Fields) -> list[Record]:
    """TRL's {"prompt", "completion"}, MetaMath's {"query", "response"} and their kin.

    Both are texts, or the prompt is a list of turns and the response a list of one. ms-swift's "history" holds earlier
    pairs, as in Alpaca.
    """
    prompt = read_turns(row, "prompt").turns if isinstance(row.get("prompt"), list) else [ask(row.text("prompt"))]
    prompt = [*_history(row), *prompt]
    if not isinstance(row.get("response"), list | dict):
        return [Record((*prompt, reply(row.text("response"))))]
    name, response = row.name_of("response"), read_turns(row, "response").turns
    if len(response) != 1:
        raise Malformed(f"{name!r} has {len(response)} turns, expected one answer of the assistant")
    return [Record(tuple(read_whole(prompt + response, name)))]


def read_whole(turns: list[dict[str, str]], name: str) -> list[dict[str, str]]:
    """Refuse turns that do not end with an answer.

    Args:
        turns: a whole conversation.
        name: the field that its answer comes from.

    Returns:
        `turns` itself.

    Raises:
        Malformed: the last turn is not the assistant's, or is empty.
    """
    if turns[-1]["role"] != "assistant" or not turns[-1]["content"].strip():
        raise Malformed(f"{name!r} is not an answer of the assistant, or it is empty")
    return turns


FORMATS = {
    "alpaca-preference": Format(
        frozenset({"instruction", "chosen", "rejected"}),
        parse_alpaca_preference,
        "instruction, input, chosen, rejected",
    ),
    "preference": Format(
        frozenset({"prompt", "chosen", "rejected"}),
        parse_preference,
        "prompt, chosen, rejected; or the prompt inside both answers",
        {"prompt": PROMPTS},
        optional=frozenset({"prompt"}),
    ),
    "hh-rlhf": Format(frozenset({"chosen", "rejected"}), parse_hh, "two transcripts: chosen, rejected"),
    "openassistant": Format(
        frozenset({"message_tree_id", "prompt"}),
        parse_openassistant,
        "message trees, or rows of message_id, parent_id, role, text",
    ),
    "alpaca": Format(
        frozenset({"instruction", "output"}),
        parse_alpaca,
        "instruction, input, output; or instruction, context, response",
        {"output": ("response", "completion"), "input": ("context",)},
    ),
    "gsm8k": Format(frozenset({"question", "answer"}), parse_gsm8k, "question, answer with ####"),
    "chat": Format(frozenset({"messages"}), parse_chat, "messages of role and content"),
    "sharegpt": Format(
        frozenset({"conversations"}),
        parse_chat,
        "conversations of from and value",
        {"conversations": ("conversation",)},
    ),
    "prompt-response": Format(
        frozenset({"prompt", "response"}),
        parse_prompt_response,
        f"prompt, response; also {', '.join(QUESTIONS)} and {', '.join(ANSWERS)}",
        {"prompt": QUESTIONS, "response": ANSWERS},
    ),
}


def check_format(name: str) -> None:
    """Raises CourseError where `name` is neither "auto" nor one of `FORMATS`."""
    if name not in ("auto", *FORMATS):
        hint = did_you_mean(name, FORMATS)
        raise CourseError(f"There is no format {name!r}: choose auto or one of {', '.join(FORMATS)}.{hint}")


def list_of_formats() -> str:
    """The formats and their keys, for a message."""
    known = "; ".join(f"{name} ({each.describes})" for name, each in FORMATS.items())
    return f"The formats are: {known}. Other keys can be mapped: --map prompt=KEY,response=KEY"


def detect(row: Mapping[str, Any]) -> str:
    """The name of the first format whose keys are all in `row`, under any of their names.

    Raises:
        UnknownFormat: no format fits.
    """
    filled = {key: value for key, value in row.items() if value is not None}
    if {"chosen", "rejected"} <= filled.keys() and not isinstance(filled["chosen"], str):
        # Answers in turns may have the prompt in them, so that its key is not needed.
        return "alpaca-preference" if {"instruction", "input"} <= filled.keys() else "preference"
    for name, candidate in FORMATS.items():
        if candidate.fits(filled):
            return name
    # A key without a value still tells the format, so that the missing value can be named.
    for name, candidate in FORMATS.items():
        if candidate.keys <= row.keys():
            return name
    raise UnknownFormat(f"no known format has the keys {', '.join(map(repr, sorted(row))) or '(none)'}{_guess(filled)}")


def _guess(row: Mapping[str, Any]) -> str:
    """What a row of no format may be, and what to do about it."""
    if "text" in row and not row.keys() & {"prompt", "message_id", *QUESTIONS}:
        return ". A text without an answer is not a record: put it into a .txt file"
    lists = [key for key, value in row.items() if isinstance(value, list) and value and _is_row(value[0])]
    if lists:
        return f". The rows seem to be inside {', '.join(map(repr, lists))}: write each such list to a file of its own"
    return ""


def _is_row(value: object) -> bool:
    """Whether a value is an object with the keys of a format."""
    return isinstance(value, dict) and any(candidate.fits(value) for candidate in FORMATS.values())


def _is_plain_text(value: object) -> bool:
    """Whether a value is a text, and not a turn as JSON text, of which an Arrow column makes lists."""
    return isinstance(value, str) and not value.startswith("{")


def _refuse_columns(row: Mapping[str, Any]) -> None:
    """Malformed where a row is a whole table by columns, which pandas' `to_json` writes unless it is told otherwise.

    A column is then an object with the rows' numbers as keys, or (with `to_dict("list")`) a list of texts.
    """
    columns = [value for value in row.values() if value is not None]
    numbered = all(isinstance(value, dict) and "0" in value for value in columns)
    listed = all(isinstance(value, list) and value and _is_plain_text(value[0]) for value in columns)
    if len(columns) > 1 and (numbered or listed):
        raise Malformed("it holds whole columns, not a row: export it by rows (pandas: orient='records', lines=True)")


@dataclass
class Row:
    """One row as it was understood.

    Attributes:
        format: its name in `FORMATS`.
        records: most formats have one record in a row.
        unused: the fields that say something and were not used.
    """

    format: str
    records: list[Record]
    unused: list[str]


def parse_row(row: Mapping[str, Any], format: str = "auto") -> Row:
    """The records of one row.

    Args:
        row: its values by key.
        format: one of `FORMATS`, or "auto" to tell it by the keys.

    Returns:
        The format, the records and the unused fields.

    Raises:
        Malformed: the row does not follow the format, or says something that a record has no place for.
    """
    _refuse_columns(row)
    name = detect(row) if format == "auto" else format
    fields = Fields(row, FORMATS[name].aliases)
    needed = FORMATS[name].keys - FORMATS[name].optional
    if missing := sorted(key for key in needed if fields.name_of(key) not in row):
        raise Malformed(f"{name} wants {', '.join(missing)} too")
    _refuse_what_is_lost(fields)
    records = [_with_system(record, fields) for record in FORMATS[name].parse(fields)]
    return Row(name, records, list(fields.unread()))


def _refuse_what_is_lost(row: Fields) -> None:
    """Malformed where a field beside the format changes what is to be learnt, and a record has no place for it."""
    for key in sorted(NOT_TEXT & row.values.keys()):
        if not is_empty(parsed(row.get(key), key)):
            raise Malformed(f"{key!r} is not empty, and only conversations of text can be trained")
    for key in GOOD:
        if says_no(row.values.get(key)):
            raise Malformed(f"{key!r} is false: it marks this answer as one that is not to be learnt")
        if isinstance(row.values.get(key), bool):
            row.get(key)


def _with_system(record: Record, row: Fields) -> Record:
    """The record with the system text that stands beside its conversation as the first turn."""
    key = next((key for key in SYSTEM if not is_empty(row.values.get(key))), None)
    if key is None:
        return record
    system = {"role": "system", "content": row.text(key)}
    if record.messages[0] == system:
        return record
    if record.messages[0]["role"] == "system":
        raise Malformed(f"{key!r} and the conversation's own system turn say different things")
    shifted = frozenset(number + 1 for number in record.untrained)
    return dataclasses.replace(record, messages=(system, *record.messages), untrained=shifted)


def parse_map(text: str) -> dict[str, str]:
    """Read "prompt=question,response=answer": our keys, and what the rows call them.

    Returns:
        Such as {"prompt": "question", "response": "answer"}.

    Raises:
        CourseError: the text is not of this form.
    """
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not pairs or not all(ours.strip() and theirs.strip() for ours, _, theirs in pairs):
        raise CourseError(
            f"--map {text} is not of the form KEY=COLUMN,KEY=COLUMN, such as prompt=query,response=answer."
        )
    chosen = {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
    known = sorted({key for each in FORMATS.values() for key in (*each.keys, *each.aliases)} | {"input", "system"})
    if unknown := sorted(chosen.keys() - set(known)):
        raise CourseError(f"--map {text}: no format has the key {', '.join(unknown)}. The keys are {', '.join(known)}.")
    return chosen


def renamed(row: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """A row under our keys.

    Args:
        row: its values by its own keys.
        keys: our keys, and what the row calls them.

    Returns:
        The same values, with our keys.

    Raises:
        Malformed: the row lacks one of the keys that it should have.
    """
    if missing := [theirs for theirs in keys.values() if theirs not in row]:
        have = ", ".join(map(repr, sorted(row)))
        raise Malformed(f"there is no key {', '.join(map(repr, missing))} to map; the row has {have or 'none'}")
    others = {key: value for key, value in row.items() if key not in keys.values()}
    for ours in keys.keys() & others.keys():  # it makes room, and is counted among the fields that are not used
        others[f"{ours} (not mapped)"] = others.pop(ours)
    return others | {ours: row[theirs] for ours, theirs in keys.items()}
