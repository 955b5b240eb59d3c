"""Conversations as real tools write them, turned into turns of {"role", "content"}.

OpenAI's and transformers' {"role", "content"}, ShareGPT's {"from", "value"} and mixtures of the two are read; content
may be a text or a list of text parts. What a turn of text cannot hold (tool calls, images) is refused, never dropped.
"""

from dataclasses import dataclass
from typing import Any

from course_lib.data.fields import Fields, is_empty, parsed, says_no, whole_characters
from course_lib.data.records import ROLES, Malformed

ROLE_NAMES = {
    "system": "system",
    "developer": "system",  # OpenAI's name for it since 2024
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "ai": "assistant",  # LangChain's
    "model": "assistant",  # Google's
}
TOOL_ROLES = ("tool", "function", "function_call", "observation", "ipython", "tool_call", "tool_response")
# Fields of a turn that change what it says or what is trained, and that a turn of text has no place for.
NOT_TEXT = frozenset({"tool_calls", "function_call", "audio", "image", "images", "refusal", "train_detail"})
TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass
class Conversation:
    """Turns of {"role", "content"}, and the numbers of the assistant's turns that are not to be trained."""

    turns: list[dict[str, str]]
    untrained: frozenset[int] = frozenset()

    def answered(self, name: str) -> "Conversation":
        """The conversation up to its last trained answer. A record has to end with an answer that is trained.

        Args:
            name: the field that the conversation comes from.

        Returns:
            The shorter conversation.

        Raises:
            Malformed: it does not end with an answer to somebody, or no answer is to be trained.
        """
        if len(self.turns) < 2 or self.turns[-1]["role"] != "assistant":
            raise Malformed(f"{name!r} does not end with an answer of the assistant")
        answers = [n for n, turn in enumerate(self.turns) if turn["role"] == "assistant" and n not in self.untrained]
        if not answers or answers[-1] == 0:
            raise Malformed(f"no answer in {name!r} that follows a question is to be trained: their weight is 0")
        last = answers[-1]
        if not self.turns[last]["content"].strip():
            raise Malformed(f"the last answer of {name!r} is empty")
        return Conversation(self.turns[: last + 1], frozenset(n for n in self.untrained if n < last))


def read_turns(row: Fields, key: str) -> Conversation:
    """The turns in field `key` of a row.

    Args:
        row: the row.
        key: the field with the list of turns, or with one turn; it may be JSON text, as in a CSV file.

    Returns:
        The turns under our roles, and which of them are context only.

    Raises:
        Malformed: the field does not hold turns, or a turn holds something that is not text.
    """
    name = row.name_of(key)
    turns = parsed(row.get(key), name)
    if isinstance(turns, dict):
        turns = [turns]
    if not isinstance(turns, list) or not turns:
        raise Malformed(f"{name!r} is not a list of at least one turn")
    conversation: list[dict[str, str]] = []
    untrained = set()
    for number, value in enumerate(turns):
        where, turn = f"turn {number} of {name!r}", parsed(value, name)
        if not isinstance(turn, dict):
            raise Malformed(f"{where} is of type {type(turn).__name__}, expected an object")
        fields = row.below(name, turn)
        role = _role(fields, where)
        conversation.append({"role": role, "content": _content(fields, where)})
        if not _is_trained(fields, role, where):
            untrained.add(number)
    return Conversation(conversation, frozenset(untrained))


def _role(turn: Fields, where: str) -> str:
    """The turn's role as one of `ROLES`, under any of its names."""
    given = turn.get("role")
    if given is None:
        given = turn.get("from")
    if given is None:
        raise Malformed(f"{where} lacks a role: neither 'role' nor 'from' is there")
    role = ROLE_NAMES.get(given.strip().lower()) if isinstance(given, str) else None
    if role is None and given in TOOL_ROLES:
        raise Malformed(f"{where} is the turn of a tool (role {given!r}), and only turns of text can be trained")
    if role is None:
        raise Malformed(f"{where} has the role {given!r}, expected {', '.join(ROLES)}")
    return role


def _content(turn: Fields, where: str) -> str:
    """The turn's text. Parts in a list are joined without a blank, as chat templates join them."""
    for field in sorted(NOT_TEXT & turn.values.keys()):
        if not is_empty(turn.values[field]):
            raise Malformed(f"{where} has {field!r}, and only turns of text can be trained")
    content = turn.get("content")
    if content is None:
        content = turn.get("value")
    if isinstance(content, list) and content:
        content = "".join(_part(part, where) for part in content)
    if not isinstance(content, str):
        found = "no text" if content is None else f"a content of type {type(content).__name__}, expected a text"
        raise Malformed(f"{where} has {found}")
    return whole_characters(content, where)


def _part(part: Any, where: str) -> str:
    """The text of one part of a content."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise Malformed(f"{where} has a part of type {type(part).__name__}, expected an object")
    kind = part.get("type") or "text"
    if kind not in TEXT_PARTS or not isinstance(part.get("text"), str):
        raise Malformed(f"{where} has a part of type {kind!r}, and only text can be trained")
    return part["text"]


def _is_trained(turn: Fields, role: str, where: str) -> bool:
    """OpenAI's "weight" (0 or 1), Axolotl's "train" and ms-swift's "loss" say which answers are context only."""
    weight = turn.values.get("weight")
    if weight is not None and weight not in (0, 1):
        raise Malformed(f"{where} has the weight {weight!r}, and only 0 and 1 are understood")
    trained = weight != 0 and not any(says_no(turn.values.get(flag)) for flag in ("train", "loss"))
    if role == "assistant" or not trained:  # a user's turn that asks to be trained is not obeyed, so it is not read
        for flag in ("weight", "train", "loss"):
            turn.get(flag)
    return trained or role != "assistant"
