"""Preference pairs: an answer that was chosen and one that was rejected, in the shapes that real tools write."""

import re

from course_lib.data.fields import Fields
from course_lib.data.records import Malformed, Record, ask, reply
from course_lib.data.turns import Conversation, read_turns

# A prompt under its other names: Orca's pairs have "question", LLaMA-Factory's ShareGPT pairs "conversations".
PROMPTS = ("instruction", "question", "query", "input", "conversations", "conversation", "messages")


def parse_alpaca_preference(row: Fields) -> list[Record]:
    """Alpaca's instruction and input, with a "chosen" and a "rejected" answer."""
    given = row.text("input", empty=True) if row.get("input") is not None else ""
    turns = (ask(row.text("instruction"), given), reply(_last_text(row, "chosen")))
    return [Record(turns, rejected=_last_text(row, "rejected"), input=given)]


def _last_text(row: Fields, key: str) -> str:
    """An answer that is a text or one turn of the assistant's."""
    turns = _answer(row, key).turns
    if len(turns) > 1:
        raise Malformed(f"{key!r} has {len(turns)} turns, expected the answer alone")
    return turns[-1]["content"]


def parse_preference(row: Fields) -> list[Record]:
    """TRL's preferences: {"prompt", "chosen", "rejected"}.

    The prompt is a text or a list of turns, and may also stand inside both answers ("implicit prompt"). An answer is a
    text, a turn, or the turns of the prompt and the answer.

    Raises:
        Malformed: a part is missing, or the answers or the prompt contradict each other.
    """
    chosen, rejected = _answer(row, "chosen"), _answer(row, "rejected")
    inside = chosen.turns[:-1]
    if rejected.turns[:-1] != inside:
        raise Malformed("the two answers differ before their last turn")
    prompt = _prompt(row, inside)
    turns = [*prompt, chosen.turns[-1]]
    if len(turns) < 2:
        raise Malformed("the prompt is missing: neither 'prompt' nor a turn before the answers is there")
    return [Record(tuple(turns), rejected=rejected.turns[-1]["content"])]


def _answer(row: Fields, key: str) -> Conversation:
    """The turns of an answer; the last one is the assistant's and not empty."""
    if isinstance(row.get(key), list | dict):
        answer = read_turns(row, key)
        if answer.turns[-1]["role"] != "assistant":
            raise Malformed(f"{key!r} does not end with an answer of the assistant")
        if not answer.turns[-1]["content"].strip():
            raise Malformed(f"the last answer of {key!r} is empty")
        return answer
    return Conversation([reply(row.text(key))])


def _prompt(row: Fields, inside: list[dict[str, str]]) -> list[dict[str, str]]:
    """The turns before the answers; `inside` holds the ones that stand in the answers themselves."""
    name, given = row.name_of("prompt"), row.values.get(row.name_of("prompt"))
    if given is None or (inside and name in ("messages", "conversations", "conversation")):
        return inside  # UltraFeedback has the whole chosen conversation in "messages" besides
    if isinstance(given, list):
        prompt = read_turns(row, "prompt").turns
        consistent = not inside or inside == prompt
    else:
        prompt = [ask(row.text("prompt"))]
        consistent = not inside or any(turn["content"].strip() == given.strip() for turn in inside)
    if not consistent:
        raise Malformed(f"the turns before the answers are not those of {name!r}")
    return inside or prompt


def parse_hh(row: Fields) -> list[Record]:
    r"""Anthropic's HH-RLHF: two transcripts ("\n\nHuman: ...\n\nAssistant: ...") that differ in their last answer."""
    chosen, rejected = (_transcript(row.text(key), key) for key in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise Malformed("the two transcripts differ before their last answer")
    return [Record(tuple(chosen), rejected=rejected[-1]["content"])]


def _transcript(text: str, name: str) -> list[dict[str, str]]:
    """The turns of a transcript."""
    parts = re.split(r"(?:^|\n\n)(Human|Assistant):", text)
    if parts[0].strip() or len(parts) < 5:
        raise Malformed(
            f"{name!r} does not begin with a 'Human:' turn that an 'Assistant:' turn answers, and there is no 'prompt'"
        )
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[1::2], parts[2::2], strict=True)]
    return Conversation(turns).answered(name).turns
