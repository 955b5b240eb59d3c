"""Rows of records for tests, and files of them."""

import json

from course_lib.data import read_records

ALPACA = {"instruction": "Name a colour.", "input": "", "output": "Red."}
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Who?\n\nAssistant: A helper: I answer.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Who?\n\nAssistant: Go away.",
}


def write(path, rows):
    """The rows as JSON Lines in a file, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def one(tmp_path, row, **options):
    """The one record of a row."""
    [record] = read_records(write(tmp_path / "rows.jsonl", [row]), **options).records
    return record


def refused(tmp_path, row, **options):
    """Why a row is malformed, without its place."""
    path = write(tmp_path / "rows.jsonl", [ALPACA, row])
    [problem] = read_records(path, malformed="skip", **options).problems
    return problem.removeprefix(f"{path}:2: ")


def turns(record):
    """A record's (role, text) pairs."""
    return [(message["role"], message["content"]) for message in record.messages]


def turn(role, content, **others):
    """A turn of a conversation."""
    return {"role": role, "content": content, **others}
