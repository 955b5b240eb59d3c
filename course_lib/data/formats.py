"""The published formats, each parsed into `Record`; one place for each.

A parser takes one row (a dict) and returns its records, or raises Malformed with the reason. Which format a row has is
told by its keys. Checked in tests/data/test_formats.py against rows written as the data sets' own pages show them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from course_lib.data.records import ROLES, Record, ask, reply


class Malformed(ValueError):
    """A row that does not follow its format; the message says why."""


@dataclass(frozen=True)
class Format:
    """keys: those that tell a row of this format; parse: row -> records."""

    keys: frozenset[str]
    parse: Callable[[dict], list[Record]]
    describes: str


def _text(row: dict, key: str, *, empty: bool = False) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        found = "missing" if value is None else f"of type {type(value).__name__}"
        raise Malformed(f"{key!r} is {found}, expected a text")
    if not value.strip() and not empty:
        raise Malformed(f"{key!r} is empty")
    return _characters(value, key)


def _characters(text: str, key: str) -> str:
    """Refuse what JSON can spell and no file or tokenizer takes: half of a surrogate pair."""
    if re.search("[\ud800-\udfff]", text):
        raise Malformed(f"{key!r} holds half a surrogate pair, which is no character")
    return text


def parse_alpaca(row: dict) -> list[Record]:
    """Stanford Alpaca: {"instruction", "input", "output"}, "input" empty or absent where there is none."""
    given = _text(row, "input", empty=True) if row.get("input") is not None else ""
    return [Record((ask(_text(row, "instruction"), given), reply(_text(row, "output"))), input=given)]


def parse_alpaca_preference(row: dict) -> list[Record]:
    """Alpaca's instruction and input with "chosen" and "rejected" answers."""
    given = _text(row, "input", empty=True) if row.get("input") is not None else ""
    turns = (ask(_text(row, "instruction"), given), reply(_text(row, "chosen")))
    return [Record(turns, rejected=_text(row, "rejected"), input=given)]


def parse_preference(row: dict) -> list[Record]:
    """{"prompt", "chosen", "rejected"}: texts, or lists of messages (the answers may repeat the prompt, as TRL's)."""
    conversation = isinstance(row.get("prompt"), list)
    prompt = _messages(row["prompt"], "prompt") if conversation else [ask(_text(row, "prompt"))]
    chosen, rejected = (_answer(row, key, prompt) for key in ("chosen", "rejected"))
    return [Record((*prompt, reply(chosen)), rejected=rejected)]


def _answer(row: dict, key: str, prompt: list[dict]) -> str:
    if not isinstance(row.get(key), list):
        return _text(row, key)
    messages = _messages(row[key], key)
    if messages[:-1] not in ([], prompt):
        raise Malformed(f"{key!r} is not the prompt's turns and one answer of the assistant")
    return _answered([*prompt, messages[-1]], key)[-1]["content"]


def parse_hh(row: dict) -> list[Record]:
    r"""Anthropic's HH-RLHF: two transcripts ("\n\nHuman: ...\n\nAssistant: ...") that differ in their last answer."""
    chosen, rejected = (_transcript(_text(row, key), key) for key in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise Malformed("the two transcripts differ before their last answer")
    return [Record(tuple(chosen), rejected=rejected[-1]["content"])]


def _transcript(text: str, key: str) -> list[dict]:
    parts = re.split(r"(?:^|\n\n)(Human|Assistant):", text)
    if parts[0].strip() or len(parts) < 5:
        raise Malformed(f"{key!r} does not begin with a 'Human:' turn that an 'Assistant:' turn answers")
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [{"role": roles[who], "content": said.strip()} for who, said in zip(parts[1::2], parts[2::2], strict=True)]
    return _answered(turns, key)


def parse_chat(row: dict) -> list[Record]:
    """{"messages": [{"role", "content"}, ...]}, or ShareGPT's {"conversations": [{"from", "value"}, ...]}."""
    if "messages" in row:
        return [Record(tuple(_answered(_messages(row["messages"], "messages"), "messages")))]
    names = {"human": "user", "gpt": "assistant", "system": "system"}
    turns = row["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Malformed("'conversations' is no list of turns")
    renamed = [{"role": names.get(str(t.get("from")), t.get("from")), "content": t.get("value")} for t in turns]
    return [Record(tuple(_answered(_messages(renamed, "conversations"), "conversations")))]


def _messages(turns: object, key: str) -> list[dict]:
    if not isinstance(turns, list) or not turns:
        raise Malformed(f"{key!r} is no list of at least one turn")
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            raise Malformed(f"turn {number} of {key!r} has no role among {', '.join(ROLES)}")
        if not isinstance(turn.get("content"), str):
            raise Malformed(f"turn {number} of {key!r} has no text as its content")
    return [{"role": turn["role"], "content": _characters(turn["content"], key)} for turn in turns]


def _answered(turns: list[dict], key: str) -> list[dict]:
    """Refuse what no trainer can use: a conversation that does not end with an answer to somebody."""
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise Malformed(f"{key!r} does not end with an answer of the assistant")
    if not turns[-1]["content"].strip():
        raise Malformed(f"the last answer of {key!r} is empty")
    return turns


def parse_gsm8k(row: dict) -> list[Record]:
    """GSM8K (Cobbe et al. 2021, arXiv:2110.14168): the final answer stands after "####", and calculator marks such as
    ``<<16-3-4=9>>`` are taken out of the solution."""
    solution = re.sub(r"<<[^<>]*>>", "", _text(row, "answer"))
    reasoning, *finals = (part.strip() for part in solution.split("####"))
    if len(finals) != 1 or not finals[0] or "\n" in finals[0]:
        raise Malformed("'answer' has no final answer after one '####', on the same line")
    # The commas of 1,000 are for readers; a verifier compares numbers.
    answer = re.sub(r"(?<=\d),(?=\d{3})", "", finals[0])
    text = f"{reasoning}\n#### {answer}" if reasoning else f"#### {answer}"
    return [Record((ask(_text(row, "question")), reply(text)), answer=answer)]


def parse_openassistant(row: dict) -> list[Record]:
    """OpenAssistant's message trees (Köpf et al. 2023, arXiv:2304.07327): a record for each answer that no later one
    follows. Where the answers to one turn were ranked, the lowest is the `rejected` of the best. Deleted messages are
    left out."""
    records: list[Record] = []
    # A stack: a thread may be longer than Python's calls may nest.
    todo: list[tuple[object, tuple[dict, ...]]] = [(row["prompt"], ())]
    while todo:
        node, above = todo.pop()
        turns, replies = (*above, _message(node)), _replies(node)
        for answer in replies if turns[-1]["role"] == "user" else ():
            turn = _message(answer)
            if turn["role"] == "assistant" and not any(map(_replies, _replies(answer))):
                records.append(Record((*turns, turn), rejected=_lowest_below(answer, replies)))
        todo += [(following, turns) for following in reversed(replies)]
    if not records:
        raise Malformed("no prompt of this tree was answered")
    return records


def _message(node: object) -> dict[str, str]:
    """The turn that a message of a tree is."""
    message = _object(node)
    role = {"prompter": "user", "assistant": "assistant"}.get(str(message.get("role")))
    if role is None:
        raise Malformed(f"a message has the role {message.get('role')!r}, expected 'prompter' or 'assistant'")
    return {"role": role, "content": _text(message, "text")}


def _replies(node: object) -> list[dict]:
    """The replies to a message that were not deleted."""
    replies = _object(node).get("replies") or []
    if not isinstance(replies, list):
        raise Malformed("the 'replies' to a message are no list")
    return [reply for reply in replies if not _object(reply).get("deleted")]


def _object(node: object) -> dict:
    if not isinstance(node, dict):
        raise Malformed(f"a message of the tree is of type {type(node).__name__}, expected an object")
    return node


def _lowest_below(answer: dict, siblings: list[dict]) -> str | None:
    """The text of the lowest-ranked sibling where `answer` is the best-ranked (rank 0), else None."""
    ranked = [s for s in siblings if isinstance(s.get("rank"), int)]
    if answer.get("rank") != 0 or len(ranked) < 2:
        return None
    return _text(max(ranked, key=lambda sibling: sibling["rank"]), "text")


def assemble_trees(messages: list[tuple[str, dict]]) -> list[tuple[str, dict | Malformed]]:
    """Message trees from OpenAssistant's flat rows (message_id, parent_id, text, role, rank), each with the place of
    its first message; then what is wrong with single messages, each with its own place."""
    nodes: dict[str, tuple[str, dict]] = {}
    trees: list[tuple[str, dict]] = []
    problems: list[tuple[str, Malformed]] = []
    for where, row in messages:
        try:
            nodes |= _node(where, row, nodes)
        except Malformed as problem:
            problems.append((where, problem))
    for where, node in nodes.values():
        if node["parent_id"] is None:
            trees.append((where, {"message_tree_id": node["message_id"], "prompt": node}))
        elif node["parent_id"] in nodes:
            nodes[node["parent_id"]][1]["replies"].append(node)
    todo = [tree["prompt"] for _, tree in trees]
    while todo:
        nodes.pop(todo[-1]["message_id"])
        todo += todo.pop()["replies"]
    lost = Malformed("no chain of 'parent_id' leads from this message to a first one")
    return [*trees, *problems, *((where, lost) for where, _ in nodes.values())]


def _node(where: str, row: dict, others: dict) -> dict[str, tuple[str, dict]]:
    """A flat row as {message_id: (place, message without replies yet)}."""
    if not row.get("deleted"):
        _message(row)
    name = _text(row, "message_id")
    if row["parent_id"] is not None:
        _text(row, "parent_id")
    if name in others:
        raise Malformed(f"the 'message_id' {name!r} is there twice")
    return {name: (where, row | {"replies": []})}


FORMATS = {
    "alpaca-preference": Format(
        frozenset({"instruction", "chosen", "rejected"}),
        parse_alpaca_preference,
        "instruction, input, chosen, rejected",
    ),
    "preference": Format(frozenset({"prompt", "chosen", "rejected"}), parse_preference, "prompt, chosen, rejected"),
    "hh-rlhf": Format(frozenset({"chosen", "rejected"}), parse_hh, "two transcripts: chosen, rejected"),
    "openassistant": Format(frozenset({"message_tree_id", "prompt"}), parse_openassistant, "message trees"),
    "alpaca": Format(frozenset({"instruction", "output"}), parse_alpaca, "instruction, input, output"),
    "gsm8k": Format(frozenset({"question", "answer"}), parse_gsm8k, "question, answer with ####"),
    "chat": Format(frozenset({"messages"}), parse_chat, "messages of role and content"),
    "sharegpt": Format(frozenset({"conversations"}), parse_chat, "conversations of from and value"),
}


def detect(row: dict) -> str:
    """The name of the first format whose keys are all in `row`."""
    for name, candidate in FORMATS.items():
        if candidate.keys <= row.keys():
            return name
    raise Malformed(f"no known format has the keys {', '.join(map(repr, sorted(row))) or '(none)'}")
