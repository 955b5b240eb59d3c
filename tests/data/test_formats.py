"""Each published format to records, and what is malformed."""

import gzip
import json

import pytest

from course_lib.data import read_records
from course_lib.data.formats import FORMATS, detect
from course_lib.errors import CourseError

ALPACA = {"instruction": "Name a colour.", "input": "", "output": "Red."}
HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Who?\n\nAssistant: A helper: I answer.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Who?\n\nAssistant: Go away.",
}
TREE = {
    "message_tree_id": "t",
    "prompt": {
        "text": "Why is the sky blue?",
        "role": "prompter",
        "replies": [
            {"text": "Rayleigh scattering.", "role": "assistant", "rank": 0, "replies": []},
            {"text": "Because.", "role": "assistant", "rank": 2, "replies": []},
            {"text": "Spam", "role": "assistant", "rank": 9, "deleted": True, "replies": []},
            {
                "text": "Light.",
                "role": "assistant",
                "rank": 1,
                "replies": [
                    {
                        "text": "More?",
                        "role": "prompter",
                        "replies": [{"text": "Blue scatters most.", "role": "assistant", "replies": []}],
                    }
                ],
            },
        ],
    },
}


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def one(tmp_path, row, **options):
    [record] = read_records(write(tmp_path / "rows.jsonl", [row]), **options).records
    return record


def turns(record):
    return [(message["role"], message["content"]) for message in record.messages]


def test_alpaca(tmp_path):
    assert turns(one(tmp_path, ALPACA)) == [("user", "Name a colour."), ("assistant", "Red.")]
    given = one(tmp_path, {**ALPACA, "input": "warm ones"})
    assert turns(given)[0] == ("user", "Name a colour.\n\nwarm ones")
    assert given.alpaca() == {**ALPACA, "input": "warm ones"}
    without = {key: ALPACA[key] for key in ("instruction", "output")}
    assert one(tmp_path, without).alpaca() == ALPACA


def test_preferences(tmp_path):
    record = one(tmp_path, {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"})
    assert (turns(record), record.rejected) == ([("user", "2 + 2?"), ("assistant", "4")], "5")
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    answers = {
        key: [*prompt, {"role": "assistant", "content": text}] for key, text in (("chosen", "4"), ("rejected", "5"))
    }
    record = one(tmp_path, {"prompt": prompt, **answers})
    assert (len(record.messages), record.response, record.rejected) == (3, "4", "5")
    record = one(tmp_path, {**ALPACA, "input": "warm", "chosen": "Red.", "rejected": "Blue."})
    assert (record.response, record.rejected, record.input) == ("Red.", "Blue.", "warm")


def test_hh(tmp_path):
    record = one(tmp_path, HH)
    assert turns(record)[1:3] == [("assistant", "Hello."), ("user", "Who?")]
    assert (record.response, record.rejected) == ("A helper: I answer.", "Go away.")


def test_gsm8k(tmp_path):
    record = one(tmp_path, {"question": "Eggs?", "answer": "She has 3*4=<<3*4=12>>12 dozen.\n#### 1,200"})
    assert record.answer == "1200"
    assert record.response == "She has 3*4=12 dozen.\n#### 1200"


def test_chat_and_sharegpt(tmp_path):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    shared = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    assert turns(one(tmp_path, {"messages": messages})) == turns(one(tmp_path, {"conversations": shared}))


def check_tree(records):
    threads = {(record.response, len(record.messages), record.rejected) for record in records}
    assert threads == {
        ("Rayleigh scattering.", 2, "Because."),  # the best, with the lowest-ranked as rejected
        ("Because.", 2, None),
        ("Blue scatters most.", 4, None),
    }


def test_openassistant_trees(tmp_path):
    check_tree(read_records(write(tmp_path / "trees.jsonl", [TREE])).records)


def test_openassistant_flat_messages_form_the_same_trees(tmp_path):
    rows = []

    def flatten(node, parent):
        identity = f"m{len(rows)}"
        rows.append({**{k: v for k, v in node.items() if k != "replies"}, "message_id": identity, "parent_id": parent})
        for reply in node["replies"]:
            flatten(reply, identity)

    flatten(TREE["prompt"], None)
    check_tree(read_records(write(tmp_path / "flat.jsonl", rows)).records)


def flat(identity, parent, role="assistant", **others):
    return {"message_id": identity, "parent_id": parent, "role": role, "text": f"text {identity}", **others}


def test_flat_messages_that_belong_to_no_tree_are_named(tmp_path):
    rows = [
        flat("a", None, "prompter"),
        flat("b", "a"),
        flat("c", "gone"),
        flat("d", "c", "prompter"),
        flat("e", "f"),
        flat("f", "e", "prompter"),
        flat("b", "a", text="another"),
        flat(["g"], "a"),
        flat("h", ["a"]),
        flat("i", "a", "robot"),
    ]
    path = write(tmp_path / "flat.jsonl", rows)
    reading = read_records(path, malformed="skip")
    assert [turns(record) for record in reading.records] == [[("user", "text a"), ("assistant", "text b")]]
    said = {int(problem.split(":")[1]): problem for problem in reading.problems}
    assert sorted(said) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert all("no chain of 'parent_id'" in said[line] for line in (3, 4, 5, 6))
    for line, reason in ((7, "'b' is there twice"), (8, "of type list"), (9, "'parent_id' is of"), (10, "'robot'")):
        assert reason in said[line]


def test_a_thread_longer_than_pythons_stack_and_one_that_ends_with_a_question(tmp_path):
    rows = [flat(str(i), str(i - 1) if i else None, ("prompter", "assistant")[i % 2]) for i in range(2001)]
    [record] = read_records(write(tmp_path / "flat.jsonl", rows)).records
    assert len(record.messages) == 2000  # up to the last answer: nobody answered the last question


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**ALPACA, "output": " "}, "'output' is empty"),
        ({**ALPACA, "instruction": 7}, "'instruction' is of type int, expected a text"),
        ({"question": "a", "answer": "no mark"}, "no final answer after one '####'"),
        ({"question": "a", "answer": "steps ####"}, "no final answer after one"),
        ({"question": "a", "answer": "#### 5 #### 6"}, "no final answer after one"),
        ({"question": "a", "answer": "#### 5\nmore"}, "on the same line"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "'rejected' is missing"),
        ({**HH, "rejected": "\n\nHuman: Other\n\nAssistant: x"}, "differ before their last answer"),
        ({"chosen": "just text", "rejected": "text"}, "does not begin with a 'Human:' turn"),
        (
            {"chosen": HH["chosen"] + "\n\nHuman: And?", "rejected": HH["rejected"] + "\n\nHuman: And?"},
            "does not end with",
        ),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "does not end with an answer"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "turn 0 of 'messages' has no role among system, user"),
        ({"messages": [{"role": "user", "content": None}]}, "turn 0 of 'messages' has no text"),
        ({"messages": "Hi"}, "no list of at least one turn"),
        ({"conversations": ["Hi"]}, "no list of turns"),
        (
            {"message_tree_id": "t", "prompt": {"text": "x", "role": "prompter", "replies": []}},
            "no prompt of this tree",
        ),
        ({"message_tree_id": "t", "prompt": {"text": "x", "role": "bot"}}, "has the role 'bot'"),
        ({"message_tree_id": "t", "prompt": {"text": "x", "role": []}}, r"has the role \[\]"),
        ({"message_tree_id": "t", "prompt": "x"}, "of type str, expected an object"),
        ({"message_tree_id": "t", "prompt": {"text": "x", "role": "prompter", "replies": 1}}, "are no list"),
        ({"message_tree_id": "t", "prompt": {"text": "x", "role": "prompter", "replies": [1]}}, "of type int"),
        ({"conversations": [{"from": [], "value": "Hi"}]}, "turn 0 of 'conversations' has no role"),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " "}]}, "is empty"),
        ({**ALPACA, "output": "\ud800"}, "'output' holds half a surrogate pair"),
        ({"messages": [{"role": "user", "content": "\udfff"}]}, "'messages' holds half a surrogate pair"),
        ({"\ud800": 1}, r"the keys '\\ud800'"),
        ({"title": "x"}, "no known format has the keys 'title'"),
        ("text", "the row is of type str"),
    ],
)
def test_malformed_rows_are_named(tmp_path, row, reason):
    path = write(tmp_path / "rows.jsonl", [ALPACA, row, ALPACA])
    with pytest.raises(CourseError, match=rf"rows\.jsonl:2: .*{reason}"):
        read_records(path)
    reading = read_records(path, malformed="skip")
    assert len(reading.records) == 2
    assert [problem.startswith(f"{path}:2: ") for problem in reading.problems] == [True]
    assert "3 rows (2 alpaca): 2 records, 1 malformed" in str(reading)


def test_lines_are_counted_in_a_json_list(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([ALPACA, {**ALPACA, "output": ""}, ALPACA], indent=4))
    with pytest.raises(CourseError, match=r"list\.json:7: 'output' is empty"):
        read_records(path)
    assert [r.source for r in read_records(path, malformed="skip").records] == [f"{path}:2", f"{path}:12"]


def test_what_follows_a_json_list_is_not_lost_in_silence(tmp_path):
    path = tmp_path / "two.json"
    path.write_text(json.dumps([ALPACA]) + "\n" + json.dumps([ALPACA]))
    assert read_records(path, malformed="skip").problems == [
        f"{path}:1: something follows the end of the list, and was not read"
    ]
    path.write_text("".join(json.dumps(ALPACA, indent=1) + "\n" for _ in range(3)))  # values without a list
    assert len(read_records(path).records) == 3


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_a_byte_order_mark_and_windows_lines_are_no_matter(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(b"\xef\xbb\xbf" + (json.dumps(ALPACA) + "\r\n").encode() * 2)
    assert [record.source for record in read_records(path).records] == [f"{path}:1", f"{path}:2"]


def test_one_line_in_another_encoding_leaves_the_others(tmp_path):
    path = tmp_path / "rows.jsonl"
    line = json.dumps(ALPACA)
    path.write_bytes("\n".join([line, line.replace("colour", "café"), line]).encode("latin-1"))
    reading = read_records(path, malformed="skip")
    assert [record.source for record in reading.records] == [f"{path}:1", f"{path}:3"]
    assert reading.problems == [f"{path}:2: not UTF-8 text (invalid continuation byte)"]


@pytest.mark.parametrize("cut", [40, 80, -1])
def test_a_json_list_that_is_cut_short_is_noticed(tmp_path, cut):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([ALPACA] * 3)[:cut])
    with pytest.raises(CourseError, match=r"list\.json:1: (no JSON from here on|the file is cut short)"):
        read_records(path)


def test_gz_folders_and_broken_files(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "a.jsonl", [ALPACA])
    whole = gzip.compress("\n".join([json.dumps(HH)] * 50).encode())
    (tmp_path / "sub" / "b.jsonl.gz").write_bytes(whole)
    reading = read_records(tmp_path)
    assert reading.formats == {"alpaca": 1, "hh-rlhf": 50}
    (tmp_path / "sub" / "b.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(CourseError, match="b.jsonl.gz: cut short or no gzip"):
        read_records(tmp_path)
    assert read_records(tmp_path, malformed="skip").formats["alpaca"] == 1
    (tmp_path / "sub" / "b.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(CourseError, match="b.jsonl.gz: cut short or no gzip"):
        read_records(tmp_path)
    (tmp_path / "c.jsonl").write_bytes(b'{"instruction": "\xff"}')
    with pytest.raises(CourseError, match=r"c\.jsonl:1: not UTF-8 text"):
        read_records(tmp_path / "c.jsonl")


def test_choices_are_checked(tmp_path):
    path = write(tmp_path / "rows.jsonl", [ALPACA])
    with pytest.raises(CourseError, match="There is no format 'alpacca': choose auto or one of alpaca-preference"):
        read_records(path, "alpacca")
    with pytest.raises(CourseError, match="gsm8k wants answer, question too"):
        read_records(path, "gsm8k")
    with pytest.raises(CourseError, match="choose 'refuse' or 'skip'"):
        read_records(path, malformed="ignore")
    with pytest.raises(CourseError, match="has no file that ends with"):
        read_records((tmp_path / "empty").mkdir() or tmp_path / "empty")
    with pytest.raises(CourseError, match="neither a file nor a folder, and the hub did not give it"):
        read_records("nobody/no-such-data-set")
    with pytest.raises(CourseError, match=r"There is no file absent\.jsonl\.$"):  # without asking the hub
        read_records("absent.jsonl")


def test_a_hub_data_set_by_name(tmp_path, monkeypatch):
    """`datasets` takes a folder of that name in place of the hub: the same call, the same rows, no network."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "someone" / "recorded"
    folder.mkdir(parents=True)
    datasets.Dataset.from_list([HH, HH]).to_parquet(str(folder / "train.parquet"))
    from course_lib.data import reading

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = list(reading.load_hub("someone/recorded", "train"))
    assert rows == [HH, HH]
    with pytest.raises(CourseError, match="hub did not give it"):
        reading.load_hub("someone/recorded", "no-such-split")


def test_the_hub_is_asked_for_split_and_configuration(monkeypatch):
    from course_lib.data import reading

    asked = []
    monkeypatch.setattr(reading, "load_hub", lambda *arguments: asked.append(arguments) or [HH])
    assert read_records("some/set", split="test", config="main").records[0].source == "some/set[test]:0"
    assert asked == [("some/set", "test", "main")]


def test_the_command(tmp_path, capsys):
    from course_lib.cli import main

    path = write(tmp_path / "rows.jsonl", [HH, {"question": "\ud800", "answer": "#### 1"}, ALPACA])
    assert main(["data", "check", str(path), "--show", "9"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("3 rows (1 hh-rlhf, 1 alpaca): 2 records, 1 malformed\n")
    assert out.endswith(f"{path}:3\n  user: Name a colour.\n  assistant: Red.\n")
    assert f"{path}:2: 'question' holds half a surrogate pair" in out
    assert "  rejected: Go away." in out
    assert main(["data", "check", str(write(path, [ALPACA])), "--show", "-1"]) == 0
    assert capsys.readouterr().out == "1 rows (1 alpaca): 1 records, 0 malformed\n"
    assert main(["data", "check", str(tmp_path / "absent.json")]) == 2
    assert capsys.readouterr().err == f"course: There is no file {tmp_path / 'absent.json'}.\n"


def test_each_format_is_told_by_its_keys():
    """More telling keys come first, so that no format hides another."""
    for name, format in FORMATS.items():
        assert detect(dict.fromkeys(format.keys)) == name
