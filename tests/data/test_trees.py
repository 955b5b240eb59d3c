"""OpenAssistant's message trees, whole and flat, as the data set's own files and other exports write them."""

import csv

import pytest
from record_rows import turns, write

from course_lib.data import read_records

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


def check_tree(records):
    threads = {(record.response, len(record.messages), record.rejected) for record in records}
    assert threads == {
        ("Rayleigh scattering.", 2, "Because."),  # the best, with the lowest-ranked as rejected
        ("Because.", 2, None),
        ("Blue scatters most.", 4, None),
    }


def flattened():
    """The tree's messages as flat rows; what a message does not have is left out."""
    rows = []

    def add(node, parent):
        row = {key: node.get(key) for key in ("text", "role", "rank", "deleted")}
        row |= {"message_id": f"m{len(rows)}", "parent_id": parent}
        rows.append({key: value for key, value in row.items() if value is not None})
        for reply in node["replies"]:
            add(reply, row["message_id"])

    add(TREE["prompt"], None)
    return rows


def test_whole_trees(tmp_path):
    check_tree(read_records(write(tmp_path / "trees.jsonl", [TREE])).records)


def test_flat_messages_form_the_same_trees_with_and_without_nulls(tmp_path):
    nulls = [{"rank": None, "deleted": None, "parent_id": None} | row for row in flattened()]
    check_tree(read_records(write(tmp_path / "nulls.jsonl", nulls)).records)
    check_tree(read_records(write(tmp_path / "without.jsonl", flattened())).records)


def test_a_table_of_messages_forms_the_same_trees(tmp_path):
    """pandas writes ranks as floats and gaps as empty cells; every value of a CSV file is a text."""
    columns = ["message_id", "parent_id", "text", "role", "rank", "deleted"]
    with open(tmp_path / "flat.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for row in flattened():
            rank = {"rank": float(row["rank"])} if "rank" in row else {}
            writer.writerow(row | rank | {"deleted": str(row.get("deleted", False))})
    check_tree(read_records(tmp_path / "flat.csv").records)

    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"rank": None, "deleted": False, "parent_id": None} | row for row in flattened()]
    table = pyarrow.Table.from_pylist([row | {"rank": row["rank"] and float(row["rank"])} for row in rows])
    parquet.write_table(table, tmp_path / "flat.parquet")
    records = read_records(tmp_path / "flat.parquet").records
    assert {record.response for record in records} == {"Rayleigh scattering.", "Because.", "Blue scatters most."}


def flat(identity, parent, role="assistant", **others):
    return {"message_id": identity, "parent_id": parent, "role": role, "text": f"text {identity}", **others}


def test_what_is_not_used_of_a_message_is_named(tmp_path):
    rows = [flat("a", None, "prompter", lang="en"), flat("b", "a", lang="en", review_count=3)]
    assert read_records(write(tmp_path / "flat.jsonl", rows)).unused == {"prompt[].lang": 2, "prompt[].review_count": 1}


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
