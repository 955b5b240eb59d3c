"""Preference pairs in the shapes that real tools write."""

import pytest
from record_rows import ALPACA, HH, one, refused, turn, turns

USER, FOUR, FIVE = turn("user", "2 + 2?"), turn("assistant", "4"), turn("assistant", "5")
SYSTEM = turn("system", "Be brief.")

SAME = {  # every shape of the one pair
    "a prompt": {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
    "a prompt of turns": {"prompt": [USER], "chosen": [FOUR], "rejected": [FIVE]},
    "a prompt of turns, text answers": {"prompt": [USER], "chosen": "4", "rejected": "5"},
    "a prompt that the answers repeat": {"prompt": [USER], "chosen": [USER, FOUR], "rejected": [USER, FIVE]},
    "TRL, the prompt inside the answers": {"chosen": [USER, FOUR], "rejected": [USER, FIVE]},
    "UltraFeedback": {
        "prompt": "2 + 2?",
        "chosen": [USER, FOUR],
        "rejected": [USER, FIVE],
        "messages": [USER, FOUR],
    },
    "UltraFeedback without the prompt": {
        "chosen": [USER, FOUR],
        "rejected": [USER, FIVE],
        "messages": [USER, FOUR],
    },
    "Orca without a system text": {"question": "2 + 2?", "chosen": "4", "rejected": "5"},
    "a query": {"query": "2 + 2?", "chosen": "4", "rejected": "5"},
    "an instruction": {"instruction": "2 + 2?", "chosen": "4", "rejected": "5"},
    "Argilla": {"instruction": "2 + 2?", "chosen": [USER, FOUR], "rejected": [USER, FIVE]},
    "LLaMA-Factory": {
        "conversations": [{"from": "human", "value": "2 + 2?"}],
        "chosen": {"from": "gpt", "value": "4"},
        "rejected": {"from": "gpt", "value": "5"},
    },
    "HH-RLHF": {"chosen": "\n\nHuman: 2 + 2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2 + 2?\n\nAssistant: 5"},
}


@pytest.mark.parametrize("shape", SAME)
def test_every_shape_gives_the_same_pair(tmp_path, shape):
    record = one(tmp_path, SAME[shape])
    assert (turns(record), record.rejected) == ([("user", "2 + 2?"), ("assistant", "4")], "5")


@pytest.mark.parametrize(
    "row",
    [
        {"system": "Be brief.", "question": "2 + 2?", "chosen": "4", "rejected": "5"},  # Orca
        {"system_prompt": "Be brief.", "chosen": [USER, FOUR], "rejected": [USER, FIVE]},
        {"chosen": [SYSTEM, USER, FOUR], "rejected": [SYSTEM, USER, FIVE]},
        {"prompt": "2 + 2?", "chosen": [SYSTEM, USER, FOUR], "rejected": [SYSTEM, USER, FIVE]},
        {"system": "Be brief.", "prompt": [SYSTEM, USER], "chosen": "4", "rejected": "5"},
        {"system": "Be brief.", "instruction": "2 + 2?", "chosen": "4", "rejected": "5"},
    ],
)
def test_a_system_text_beside_or_inside_is_the_first_turn(tmp_path, row):
    record = one(tmp_path, row)
    assert (turns(record)[0], len(record.messages), record.rejected) == (("system", "Be brief."), 3, "5")


def test_an_input_belongs_to_the_question(tmp_path):
    record = one(tmp_path, {**ALPACA, "input": "warm", "chosen": "Red.", "rejected": "Blue."})
    assert (record.response, record.rejected, record.input) == ("Red.", "Blue.", "warm")


def test_transcripts(tmp_path):
    record = one(tmp_path, HH)
    assert turns(record)[1:3] == [("assistant", "Hello."), ("user", "Who?")]
    assert (record.response, record.rejected) == ("A helper: I answer.", "Go away.")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": None}, "'rejected' is missing"),
        ({**HH, "rejected": "\n\nHuman: Other\n\nAssistant: x"}, "differ before their last answer"),
        ({"chosen": "just text", "rejected": "text"}, "does not begin with a 'Human:' turn"),
        (
            {"chosen": HH["chosen"] + "\n\nHuman: And?", "rejected": HH["rejected"] + "\n\nHuman: And?"},
            "does not end with",
        ),
        ({"chosen": [USER, FOUR], "rejected": [turn("user", "3 + 3?"), FIVE]}, "differ before their last turn"),
        ({"chosen": [FOUR], "rejected": [FIVE]}, "the prompt is missing"),
        ({"chosen": [USER, FOUR], "rejected": [USER]}, "'rejected' does not end with an answer"),
        ({"prompt": "7 + 7?", "chosen": [USER, FOUR], "rejected": [USER, FIVE]}, "are not those of 'prompt'"),
        ({"prompt": [SYSTEM, USER], "chosen": [USER, FOUR], "rejected": [USER, FIVE]}, "are not those of 'prompt'"),
        ({**ALPACA, "input": "x", "chosen": [USER, FOUR], "rejected": [USER, FIVE]}, "'chosen' has 2 turns"),
    ],
)
def test_a_pair_that_is_none_is_refused_with_its_own_reason(tmp_path, row, reason):
    assert reason in refused(tmp_path, row)
