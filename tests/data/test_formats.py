"""Each published format to records, and what is malformed."""

import pytest
from record_rows import ALPACA, CHAT, HH, one, refused, turn, turns, write

from course_lib.data import read_records
from course_lib.data.formats import FORMATS, detect, parse_map
from course_lib.errors import CourseError

ANSWERED = [("user", "Name a tree."), ("assistant", "Oak.")]


def test_alpaca(tmp_path):
    assert turns(one(tmp_path, ALPACA)) == [("user", "Name a colour."), ("assistant", "Red.")]
    given = one(tmp_path, {**ALPACA, "input": "warm ones"})
    assert turns(given)[0] == ("user", "Name a colour.\n\nwarm ones")
    assert given.alpaca() == {**ALPACA, "input": "warm ones"}
    without = {key: ALPACA[key] for key in ("instruction", "output")}
    assert one(tmp_path, without).alpaca() == ALPACA
    dolly = {"instruction": "Name a colour.", "context": "warm ones", "response": "Red.", "category": "qa"}
    assert one(tmp_path, dolly).alpaca() == {**ALPACA, "input": "warm ones"}


def test_the_history_before_an_instruction_is_kept(tmp_path):
    record = one(tmp_path, {**ALPACA, "history": [["Hi", "Hello"], ["And?", "Yes."]]})
    assert [text for _, text in turns(record)] == ["Hi", "Hello", "And?", "Yes.", "Name a colour.", "Red."]
    assert turns(one(tmp_path, {**ALPACA, "history": []})) == turns(one(tmp_path, ALPACA))
    assert "'history' holds something else than pairs" in refused(tmp_path, {**ALPACA, "history": ["Hi"]})


def test_gsm8k(tmp_path):
    record = one(tmp_path, {"question": "Eggs?", "answer": "She has 3*4=<<3*4=12>>12 dozen.\n#### 1,200"})
    assert record.answer == "1200"
    assert record.response == "She has 3*4=12 dozen.\n#### 1200"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Name a tree.", "completion": "Oak."},  # TRL, OpenAI's old format
        {"prompt": "Name a tree.", "response": "Oak."},
        {"query": "Name a tree.", "response": "Oak."},  # MetaMath
        {"question": "Name a tree.", "response": "Oak."},  # OpenOrca
        {"input": "Name a tree.", "output": "Oak."},
        {"problem": "Name a tree.", "solution": "Oak."},
        {"inputs": "Name a tree.", "targets": "Oak."},  # FLAN
        {"prompt": [turn("user", "Name a tree.")], "completion": [turn("assistant", "Oak.")]},
        {"prompt": "Name a tree.", "completion": "Oak.", "label": True},  # KTO's good answers
    ],
)
def test_questions_and_answers_under_their_many_names(tmp_path, row):
    assert turns(one(tmp_path, row)) == ANSWERED
    assert read_records(tmp_path / "rows.jsonl").formats == {"prompt-response": 1}
    assert not read_records(tmp_path / "rows.jsonl").unused


def test_other_keys_can_be_mapped(tmp_path):
    row = {"ask": "Name a tree.", "say": "Oak.", "prompt": "not this"}
    record = one(tmp_path, row, map="prompt=ask, response=say")
    assert turns(record) == ANSWERED
    reading = read_records(tmp_path / "rows.jsonl", map={"prompt": "ask", "response": "say"})
    assert reading.unused == {"prompt (not mapped)": 1}
    gsm8k = {"question": "Name a tree.", "answer": "Oak."}
    assert "--map prompt=question,response=answer reads it as plain text" in refused(tmp_path, gsm8k)
    assert turns(one(tmp_path, gsm8k, map="prompt=question,response=answer")) == ANSWERED
    assert turns(one(tmp_path, {"q": CHAT["messages"]}, map="messages=q")) == turns(one(tmp_path, CHAT))


def test_a_map_that_is_none_is_refused(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"ask": "a", "say": "b"}])
    with pytest.raises(CourseError, match=r"rows.jsonl:1: there is no key 'asks' to map; the row has 'ask', 'say'"):
        read_records(path, map="prompt=asks,response=say")
    for text in ("prompt", "=ask", "prompt=", ""):
        with pytest.raises(CourseError, match="is not of the form KEY=COLUMN"):
            parse_map(text)
    with pytest.raises(CourseError, match="no format has the key promt. The keys are .*prompt"):
        parse_map("promt=ask")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**ALPACA, "output": " "}, "'output' is empty"),
        ({**ALPACA, "instruction": 7}, "'instruction' is of type int, expected a text"),
        ({"question": "a", "answer": "no mark"}, "no final answer after one '####', so this is not GSM8K"),
        ({"question": "a", "answer": "steps ####"}, "no final answer after one"),
        ({"question": "a", "answer": "#### 5 #### 6"}, "no final answer after one"),
        ({"question": "a", "answer": "#### 5\nmore"}, "on the same line"),
        ({"prompt": "a", "completion": ""}, "'completion' is empty"),
        ({"prompt": "a", "completion": "b", "label": False}, "'label' is false"),  # KTO's bad answers
        ({"prompt": "a", "completion": "b", "label": "False"}, "'label' is false"),  # the same from a CSV file
        ({**CHAT, "kto_tag": False}, "'kto_tag' is false"),
        ({"prompt": "a", "response": [turn("user", "b")]}, "'response' is not an answer of the assistant"),
        ({"prompt": "a", "response": [turn("assistant", "b")] * 2}, "'response' has 2 turns"),
        (
            {"message_tree_id": "t", "prompt": {"text": "x", "role": "prompter", "replies": []}},
            "no prompt of this tree",
        ),
        ({"message_tree_id": "t", "prompt": {"text": "x", "role": "bot"}}, "has the role 'bot'"),
        ({"message_tree_id": "t", "prompt": {"text": "x", "role": []}}, r"has the role []"),
        ({"message_tree_id": "t", "prompt": "x"}, "of type str, expected an object"),
        (
            {"message_tree_id": "t", "prompt": {"text": "x", "role": "prompter", "replies": 1}},
            "of type int, expected a l",
        ),
        ({"message_tree_id": "t", "prompt": {"text": "x", "role": "prompter", "replies": [1]}}, "of type int"),
        ({**ALPACA, "output": "\ud800"}, "'output' holds half a surrogate pair"),
        ({"\ud800": 1}, r"the keys '\ud800'"),
        ({"title": "x"}, "no known format has the keys 'title'"),
        ({"text": "x"}, "A text without an answer is not a record: put it into a .txt file"),
        (
            {"train": [ALPACA], "test": [ALPACA]},
            "The rows seem to be inside 'train', 'test': write each such list to a",
        ),
        ({"prompt": {"0": "a", "1": "b"}, "response": {"0": "c", "1": "d"}}, "it holds whole columns, not a row"),
        ({"prompt": ["a", "b"], "response": ["c", "d"]}, "it holds whole columns, not a row: export it by rows"),
        ({}, "no known format has the keys (none)"),
        ("text", "the row is of type str"),
    ],
)
def test_malformed_rows_are_named(tmp_path, row, reason):
    path = write(tmp_path / "rows.jsonl", [ALPACA, row, ALPACA])
    with pytest.raises(CourseError) as caught:
        read_records(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert reason in str(caught.value)
    reading = read_records(path, malformed="skip")
    assert len(reading.records) == 2
    assert [problem.startswith(f"{path}:2: ") for problem in reading.problems] == [True]
    assert "3 rows (2 alpaca): 2 records, 1 malformed" in str(reading)


def test_the_formats_are_listed_where_none_fits(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"title": "x"}])
    for malformed in ("refuse", "skip"):
        with pytest.raises(CourseError) as caught:
            read_records(path, malformed=malformed)
        assert all(f"{name} (" in str(caught.value) for name in FORMATS)
        assert "--map prompt=KEY,response=KEY" in str(caught.value)


def test_null_columns_do_not_tell_the_format(tmp_path):
    """Arrow and Parquet give every row all columns of the table."""
    columns = dict.fromkeys(("instruction", "input", "output", "chosen", "rejected", "conversations"))
    assert turns(one(tmp_path, {**columns, **CHAT})) == turns(one(tmp_path, CHAT))


def test_choices_are_checked(tmp_path):
    path = write(tmp_path / "rows.jsonl", [ALPACA])
    with pytest.raises(CourseError, match="There is no format 'alpacca': choose auto or .* Did you mean alpaca"):
        read_records(path, "alpacca")
    with pytest.raises(CourseError, match="gsm8k wants answer, question too"):
        read_records(path, "gsm8k")
    with pytest.raises(CourseError, match="choose 'refuse' or 'skip'"):
        read_records(path, malformed="ignore")
    with pytest.raises(CourseError, match=r"There is no file absent\.jsonl\.$"):  # without asking the hub
        read_records("absent.jsonl")
    with pytest.raises(CourseError, match=r"There is no file .*row.jsonl\. Did you mean .*rows\.jsonl\?$"):
        read_records(tmp_path / "row.jsonl")


def test_each_format_is_told_by_its_keys():
    """More telling keys come first, so that no format hides another."""
    for name, format in FORMATS.items():
        assert detect(dict.fromkeys(format.keys)) == name
        assert detect(dict.fromkeys(format.keys, "text")) == name
    assert detect(HH) == "hh-rlhf"


def test_earlier_pairs_beside_a_query_are_turns(tmp_path):
    row = {
        "query": "And Spain?",
        "response": "Madrid.",
        "history": [["Capital of Italy?", "Rome."]],
        "system": "Short.",
    }
    said = [("system", "Short."), ("user", "Capital of Italy?"), ("assistant", "Rome."), ("user", "And Spain?")]
    assert turns(one(tmp_path, row)) == [*said, ("assistant", "Madrid.")]
    assert not read_records(tmp_path / "rows.jsonl").unused


@pytest.mark.parametrize(
    "row",
    [
        {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]},  # Gemini's turns are no rows
        {"conversation_a": [turn("user", "Hi")], "winner": "model_a"},
        {"prompt": "a", "text": "b"},
    ],
)
def test_an_unknown_row_gets_no_hint_that_does_not_fit(tmp_path, row):
    assert refused(tmp_path, row).endswith(", ".join(map(repr, sorted(row))))
