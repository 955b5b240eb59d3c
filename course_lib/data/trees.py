"""OpenAssistant's message trees (Köpf et al. 2023, arXiv:2304.07327), whole or as the flat messages that form them."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from course_lib.data.fields import Fields, is_empty, says_no
from course_lib.data.records import Malformed, Record

FLAT_KEYS = ("message_id", "text", "role")
KEYS = (*FLAT_KEYS, "parent_id", "replies", "rank", "deleted")  # that are used here, or that form the tree
ROLES = {"prompter": "user", "assistant": "assistant"}
Tree = dict[str, Any]
Place = TypeVar("Place")


def parse_openassistant(row: Fields) -> list[Record]:
    """A record for each answer of a tree that no later one follows.

    Where the answers to one turn were ranked, the lowest is the `rejected` of the best. Deleted messages are left out.

    Raises:
        Malformed: a message is damaged, or no prompt was answered.
    """
    row.get("message_tree_id")
    records: list[Record] = []
    # A stack, because a thread may be longer than Python's calls may nest.
    todo: list[tuple[object, tuple[dict, ...]]] = [(row.get("prompt"), ())]
    while todo:
        node, above = todo.pop()
        turns, replies = (*above, _turn(node)), _replies(node)
        used = row.below("prompt", _object(node))
        for key in KEYS:
            used.get(key)
        if turns[-1]["role"] == "user":
            records += _answers(turns, replies)
        todo += [(following, turns) for following in reversed(replies)]
    if not records:
        raise Malformed("no prompt of this tree was answered")
    return records


def _answers(turns: tuple[dict, ...], replies: list[Tree]) -> list[Record]:
    """A record for each of the assistant's `replies` to the last of `turns` that no later answer follows."""
    records = []
    for answer in replies:
        turn = _turn(answer)
        followed = any(_replies(question) for question in _replies(answer))
        if turn["role"] == "assistant" and not followed:
            records.append(Record((*turns, turn), rejected=_lowest_below(answer, replies)))
    return records


def _turn(node: object) -> dict[str, str]:
    """A message of a tree as a turn."""
    message = Fields(_object(node))
    given = message.get("role")
    role = ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        raise Malformed(f"a message has the role {given!r}, expected 'prompter' or 'assistant'")
    return {"role": role, "content": message.text("text")}


def _replies(node: object) -> list[Tree]:
    """The replies to a message that were not deleted."""
    replies = _object(node).get("replies") or []
    if not isinstance(replies, list):
        raise Malformed(f"the 'replies' to a message are of type {type(replies).__name__}, expected a list")
    return [reply for reply in replies if not is_deleted(_object(reply))]


def is_deleted(message: Mapping[str, Any]) -> bool:
    """Whether a message was deleted; in a CSV file the flag is a text."""
    flag = message.get("deleted")
    return not is_empty(flag) and flag is not False and not says_no(flag)


def _object(node: object) -> Tree:
    """`node` itself, if it is an object; Malformed if it is anything else."""
    if not isinstance(node, dict):
        raise Malformed(f"a message of the tree is of type {type(node).__name__}, expected an object")
    return node


def _lowest_below(answer: Tree, siblings: list[Tree]) -> str | None:
    """The text of the lowest-ranked sibling where `answer` is the best-ranked (rank 0), else None."""
    ranked = [(rank, sibling) for sibling in siblings if (rank := _rank(sibling)) is not None]
    if _rank(answer) != 0 or len(ranked) < 2:
        return None
    _, lowest = max(ranked, key=lambda pair: pair[0])
    return Fields(lowest).text("text")


def _rank(message: Tree) -> float | None:
    """A message's rank: a whole number, which a table with gaps makes a float and a CSV file a text."""
    rank: Any = message.get("rank")
    if isinstance(rank, bool) or is_empty(rank):
        return None
    try:
        number = float(rank)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def is_flat_message(row: object) -> bool:
    """Whether a row is one message of a tree. The first message of a tree has no 'parent_id', or an empty one."""
    return isinstance(row, dict) and all(row.get(key) is not None for key in FLAT_KEYS)


def assemble_trees(messages: list[tuple[Place, Tree]]) -> list[tuple[Place, Tree | Malformed]]:
    """Message trees from OpenAssistant's flat rows (message_id, parent_id, text, role, rank).

    Args:
        messages: (place, row) of each.

    Returns:
        The trees, each with the place of its first message; then what is wrong with single messages, each with its own
        place.
    """
    nodes: dict[str, tuple[Place, Tree]] = {}
    trees: list[tuple[Place, Tree | Malformed]] = []
    problems: list[tuple[Place, Tree | Malformed]] = []
    for where, row in messages:
        try:
            node = _node(row)
            if node["message_id"] in nodes:
                raise Malformed(f"the 'message_id' {node['message_id']!r} is there twice")
            nodes[node["message_id"]] = where, node
        except Malformed as problem:
            problems.append((where, problem))
    for where, node in nodes.values():
        if node["parent_id"] is None:
            trees.append((where, {"message_tree_id": node["message_id"], "prompt": node}))
        elif node["parent_id"] in nodes:
            nodes[node["parent_id"]][1]["replies"].append(node)
    # What a walk from the first messages does not reach is an orphan, or in a circle of parents.
    reached = [node for _, node in nodes.values() if node["parent_id"] is None]
    while reached:
        node = reached.pop()
        nodes.pop(node["message_id"])
        reached += node["replies"]
    lost = Malformed("no chain of 'parent_id' leads from this message to a first one")
    return [*trees, *problems, *((where, lost) for where, _ in nodes.values())]


def _node(row: Tree) -> Tree:
    """A flat row as a message without replies yet."""
    if not is_deleted(row):
        _turn(row)
    fields = Fields(row)
    name = fields.text("message_id")
    parent = None if is_empty(row.get("parent_id")) else fields.text("parent_id")
    return row | {"message_id": name, "parent_id": parent, "replies": []}
