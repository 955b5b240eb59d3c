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
        raise Malformed(f"{key!r} is {'missing' if value is None else f'a {type(value).__name__}'}, expected a text")
    if not value.strip() and not empty:
        raise Malformed(f"{key!r} is empty")
    return value


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
    if messages[-1]["role"] != "assistant" or messages[:-1] not in ([], prompt):
        raise Malformed(f"{key!r} is not the prompt's turns and one answer of the assistant")
    return messages[-1]["content"]


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
    if not turns[-1]["content"]:
        raise Malformed(f"the last answer of {key!r} is empty")
    return _answered(turns, key)


def parse_chat(row: dict) -> list[Record]:
    """{"messages": [{"role", "content"}, ...]}, or ShareGPT's {"conversations": [{"from", "value"}, ...]}."""
    if "messages" in row:
        return [Record(tuple(_answered(_messages(row["messages"], "messages"), "messages")))]
    names = {"human": "user", "gpt": "assistant", "system": "system"}
    turns = row["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Malformed("'conversations' is no list of turns")
    renamed = [{"role": names.get(t.get("from"), t.get("from")), "content": t.get("value")} for t in turns]
    return [Record(tuple(_answered(_messages(renamed, "conversations"), "conversations")))]


def _messages(turns, key: str) -> list[dict]:
    if not isinstance(turns, list) or not turns:
        raise Malformed(f"{key!r} is no list of at least one turn")
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            raise Malformed(f"turn {number} of {key!r} has no role among {', '.join(ROLES)}")
        if not isinstance(turn.get("content"), str):
            raise Malformed(f"turn {number} of {key!r} has no text as its content")
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def _answered(turns: list[dict], key: str) -> list[dict]:
    """Refuse what no trainer can use: a conversation that does not end with an answer to somebody."""
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise Malformed(f"{key!r} does not end with an answer of the assistant")
    return turns


def parse_gsm8k(row: dict) -> list[Record]:
    """GSM8K (Cobbe et al. 2021, arXiv:2110.14168): the final answer stands after "####", and calculator marks such as
    ``<<16-3-4=9>>`` are taken out of the solution."""
    solution = re.sub(r"<<[^<>]*>>", "", _text(row, "answer"))
    reasoning, mark, final = solution.rpartition("####")
    if not mark or not final.strip():
        raise Malformed("'answer' has no final answer after '####'")
    # The commas of 1,000 are for readers; a verifier compares numbers.
    answer = final.strip().replace(",", "")
    text = f"{reasoning.strip()}\n#### {answer}" if reasoning.strip() else f"#### {answer}"
    return [Record((ask(_text(row, "question")), reply(text)), answer=answer)]


def parse_openassistant(row: dict) -> list[Record]:
    """OpenAssistant's message trees (Köpf et al. 2023, arXiv:2304.07327): a record for each thread that ends with an
    answer. Where the answers to one turn were ranked, the lowest is the `rejected` of the best. Deleted messages are
    left out."""
    root = row["prompt"]
    if not isinstance(root, dict):
        raise Malformed("'prompt' is no message")
    records: list[Record] = []
    _threads(root, [], records)
    if not records:
        raise Malformed("no prompt of this tree was answered")
    return records


def _threads(node: dict, above: list[dict], records: list[Record]) -> None:
    role = {"prompter": "user", "assistant": "assistant"}.get(node.get("role"))
    if role is None:
        raise Malformed(f"a message has the role {node.get('role')!r}, expected 'prompter' or 'assistant'")
    turns = [*above, {"role": role, "content": _text(node, "text")}]
    replies = [reply for reply in node.get("replies") or [] if not reply.get("deleted")]
    if role == "user":
        for answer in replies:
            if not [after for after in answer.get("replies") or [] if not after.get("deleted")]:
                lowest = _lowest_below(answer, replies)
                records.append(Record((*turns, reply(_text(answer, "text"))), rejected=lowest))
    for following in replies:
        _threads(following, turns, records)


def _lowest_below(answer: dict, siblings: list[dict]) -> str | None:
    """The text of the lowest-ranked sibling where `answer` is the best-ranked (rank 0), else None."""
    ranked = [s for s in siblings if isinstance(s.get("rank"), int)]
    if answer.get("rank") != 0 or len(ranked) < 2:
        return None
    return _text(max(ranked, key=lambda sibling: sibling["rank"]), "text")


def assemble_trees(messages: list[tuple[str, dict]]) -> list[tuple[str, dict]]:
    """Message trees from OpenAssistant's flat rows (message_id, parent_id, text, role, rank).

    Each comes with the place of its first message. A message whose parent is not there is left out with what hangs on
    it, as a deleted one is.
    """
    nodes = {row["message_id"]: row | {"replies": []} for _, row in messages}
    trees = []
    for where, row in messages:
        node, parent = nodes[row["message_id"]], row.get("parent_id")
        if parent is None:
            trees.append((where, {"message_tree_id": row["message_id"], "prompt": node}))
        elif parent in nodes:
            nodes[parent]["replies"].append(node)
    return trees


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
    raise Malformed(f"no known format has the keys {', '.join(sorted(row)) or '(none)'}")
