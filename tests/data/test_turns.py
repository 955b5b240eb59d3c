"""Conversations as real tools write them: every part of a turn is used, or refused with a reason that is true."""

import json

import pytest
from record_rows import one, refused, turn, turns, write

from course_lib.data import read_records

QUESTION, ANSWER = turn("user", "Name a river."), turn("assistant", "The Po.")
EXPECTED = [("user", "Name a river."), ("assistant", "The Po.")]
WITH_SYSTEM = [("system", "Be brief."), *EXPECTED]
HUMAN, GPT = {"from": "human", "value": "Name a river."}, {"from": "gpt", "value": "The Po."}


def part(text, kind="text"):
    return [{"type": kind, "text": text}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [QUESTION, ANSWER]},
        {"conversations": [HUMAN, GPT]},
        {"conversations": [QUESTION, ANSWER]},
        {"conversation": [QUESTION, ANSWER]},
        {"messages": [HUMAN, GPT]},
        {"conversations": [{**HUMAN, "from": "user"}, {**GPT, "from": "ChatGPT"}]},
        {"messages": [{**QUESTION, "role": "human"}, {**ANSWER, "role": "ai"}]},  # LangChain's
        {"messages": [turn("user", part("Name a river.")), turn("assistant", part("The Po."))]},
        {
            "messages": [
                turn("user", part("Name ") + part("a river.")),
                turn("assistant", part("The Po.", "output_text")),
            ]
        },
        {"messages": json.dumps([QUESTION, ANSWER])},  # as a CSV file has it
        {"messages": [json.dumps(QUESTION), json.dumps(ANSWER)]},  # as an Arrow column of JSON has it
        {"messages": [QUESTION | {"tool_calls": None, "from": None}, ANSWER | {"tool_calls": [], "weight": None}]},
        {"messages": [QUESTION, ANSWER], "conversations": None, "tools": "", "images": [], "chosen": None},
        {"messages": [QUESTION | {"weight": 0}, ANSWER | {"weight": 1}]},
    ],
)
def test_every_spelling_gives_the_same_conversation(tmp_path, row):
    record = one(tmp_path, row)
    assert turns(record) == EXPECTED
    assert not record.untrained
    assert not read_records(tmp_path / "rows.jsonl").unused


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [turn("system", "Be brief."), QUESTION, ANSWER]},
        {"messages": [turn("developer", "Be brief."), QUESTION, ANSWER]},
        {"messages": [turn("system", part("Be brief.")), QUESTION, ANSWER]},
        {"messages": [QUESTION, ANSWER], "system": "Be brief."},
        {"messages": [QUESTION, ANSWER], "system_prompt": "Be brief."},
        {"conversations": [HUMAN, GPT], "system": "Be brief.", "tools": ""},
        {"conversations": [HUMAN, GPT], "system": "", "system_prompt": "Be brief."},
        {"messages": [turn("system", "Be brief."), QUESTION, ANSWER], "system": "Be brief."},
        {"instruction": "Name a river.", "output": "The Po.", "system": "Be brief."},
        {"prompt": "Name a river.", "response": "The Po.", "system": "Be brief."},
        {"system_prompt": "Be brief.", "question": "Name a river.", "response": "The Po."},  # OpenOrca
    ],
)
def test_a_system_text_beside_the_conversation_is_its_first_turn(tmp_path, row):
    assert turns(one(tmp_path, row)) == WITH_SYSTEM


def test_turns_without_weight_are_context(tmp_path):
    """OpenAI's "weight": 0 and Axolotl's "train": false. What follows the last trained answer is left out."""
    wrong, right = turn("assistant", "MILAN", weight=0), turn("assistant", "Rome.", weight=1)
    record = one(tmp_path, {"messages": [QUESTION, wrong, QUESTION, right]})
    assert (len(record.messages), record.untrained) == (4, {1})
    record = one(tmp_path, {"messages": [QUESTION, right, QUESTION, wrong]})
    assert (turns(record)[-1], record.untrained) == (("assistant", "Rome."), frozenset())
    record = one(tmp_path, {"system": "Be brief.", "messages": [QUESTION, wrong, QUESTION, right]})
    assert record.untrained == {2}  # the system turn came before it
    record = one(tmp_path, {"conversations": [HUMAN, {**GPT, "train": False}, HUMAN, {**GPT, "train": True}]})
    assert record.untrained == {1}
    assert not read_records(tmp_path / "rows.jsonl").unused
    wrong, right = turn("assistant", "MILAN", loss=False), turn("assistant", "Rome.", loss=True)  # ms-swift's
    assert one(tmp_path, {"messages": [QUESTION, wrong, QUESTION, right]}).untrained == {1}
    assert not read_records(tmp_path / "rows.jsonl").unused


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [QUESTION]}, "'messages' does not end with an answer"),
        (
            {"messages": [turn("robot", "Hi")]},
            "turn 0 of 'messages' has the role 'robot', expected system, user, assis",
        ),
        ({"messages": [{"content": "Hi"}]}, "turn 0 of 'messages' lacks a role: neither 'role' nor 'from'"),
        ({"conversations": [{"from": [], "value": "Hi"}]}, "turn 0 of 'conversations' has the role []"),
        ({"messages": [turn("user", None)]}, "turn 0 of 'messages' has no text"),
        ({"messages": [turn("user", 7)]}, "turn 0 of 'messages' has a content of type int, expected a text"),
        ({"messages": [turn("user", [])]}, "turn 0 of 'messages' has a content of type list"),
        ({"messages": [turn("user", [7])]}, "has a part of type int, expected an object"),
        ({"messages": [turn("user", [{"type": "image_url", "image_url": {}}])]}, "has a part of type 'image_url'"),
        ({"messages": "Hi"}, "'messages' is not a list of at least one turn"),
        ({"messages": []}, "'messages' is not a list of at least one turn"),
        ({"messages": "[{'role': 'user'}]"}, "is text and not JSON ([{'role': 'user'}]): export it as JSON Lines"),
        ({"conversations": ["Hi"]}, "turn 0 of 'conversations' is of type str, expected an object"),
        ({"messages": [QUESTION, turn("assistant", " ")]}, "the last answer of 'messages' is empty"),
        ({"messages": [turn("user", "\udfff")]}, "turn 0 of 'messages' holds half a surrogate pair"),
        ({"messages": [QUESTION, turn("tool", "sunny"), ANSWER]}, "turn 1 of 'messages' is the turn of a tool"),
        (
            {"messages": [QUESTION, turn("assistant", None, tool_calls=[{"id": "c"}])]},
            "turn 1 of 'messages' has 'tool_",
        ),
        ({"messages": [QUESTION, turn("assistant", "I look.", tool_calls=[{"id": "c"}])]}, "has 'tool_calls', and"),
        ({"messages": [QUESTION, turn("assistant", "No.", function_call={"name": "f"})]}, "has 'function_call'"),
        ({"messages": [QUESTION, turn("assistant", None, refusal="I can't.")]}, "turn 1 of 'messages' has 'refusal'"),
        ({"messages": [QUESTION, turn("assistant", "A", weight=0.5)]}, "has the weight 0.5, and only 0 and 1"),
        ({"messages": [QUESTION, turn("assistant", "A", weight=0)]}, "no answer in 'messages' that follows a question"),
        ({"messages": [QUESTION, ANSWER], "tools": [{"name": "f"}]}, "'tools' is not empty"),
        ({"messages": [QUESTION, ANSWER], "tools": '[{"name": "f"}]'}, "'tools' is not empty"),
        ({"messages": [QUESTION, ANSWER], "images": ["a.png"]}, "'images' is not empty"),
        ({"messages": [turn("system", "A"), QUESTION, ANSWER], "system": "B"}, "say different things"),
        ({"messages": [QUESTION, ANSWER], "system": 7}, "'system' is of type int"),
    ],
)
def test_what_a_turn_of_text_cannot_hold_is_refused(tmp_path, row, reason):
    assert reason in refused(tmp_path, row)


def test_fields_that_are_not_used_are_counted_and_named(tmp_path):
    thought = turn("assistant", "The Po.", reasoning_content="Hm.", name="bot")
    rows = [{"messages": [QUESTION, thought], "source": "web"}, {"messages": [QUESTION | {"weight": 1}, thought]}]
    reading = read_records(write(tmp_path / "rows.jsonl", rows))
    assert reading.unused == {
        "messages[].reasoning_content": 2,
        "messages[].name": 2,
        "source": 1,
        "messages[].weight": 1,  # a user's turn that asks to be trained
    }
    assert "fields not used: messages[].reasoning_content (2), messages[].name (2)" in str(reading)
