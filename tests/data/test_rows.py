"""Rows of files: every value as it stands in the file, and every broken place named."""

import bz2
import csv
import gzip
import json
import lzma

import pytest
from record_rows import ALPACA, CHAT, HH, turns, write

from course_lib.data import read_records
from course_lib.data.rows import file_rows
from course_lib.errors import CourseError

# Texts that a library with an eye for types would turn into something else.
TEXTS = [
    "007",
    "7",
    "1e5",
    "true",
    "False",
    "null",
    "None",
    "NA",
    "nan",
    "2020-01-01",
    "12:30",
    '"quoted"',
    " x ",
    "{}",
    "[1]",
    "é",
]
TABLE = [{"instruction": f"Say {n}", "input": "", "output": text} for n, text in enumerate(TEXTS)]


def outputs(path):
    return [record.response for record in read_records(path).records]


def write_csv(path, rows, **options):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_texts_stay_texts_in_every_kind_of_file(tmp_path):
    assert outputs(write(tmp_path / "rows.jsonl", TABLE)) == TEXTS
    assert outputs(write(tmp_path / "rows.NDJSON", TABLE)) == TEXTS
    (tmp_path / "rows.json").write_text(json.dumps(TABLE))
    assert outputs(tmp_path / "rows.json") == TEXTS
    assert outputs(write_csv(tmp_path / "rows.csv", TABLE)) == TEXTS
    assert outputs(write_csv(tmp_path / "rows.tsv", TABLE, delimiter="\t")) == TEXTS
    assert outputs(write_csv(tmp_path / "excel.csv", TABLE, delimiter=";")) == TEXTS
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist(TABLE)
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert outputs(tmp_path / "rows.parquet") == TEXTS
    for kind, opened in (("stream", pyarrow.ipc.new_stream), ("file", pyarrow.ipc.new_file)):
        with opened(tmp_path / f"{kind}.arrow", table.schema) as writer:
            writer.write_table(table)
        assert outputs(tmp_path / f"{kind}.arrow") == TEXTS


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip), ("bz2", bz2), ("xz", lzma)])
def test_compressed_files(tmp_path, ending, pack):
    path, text = tmp_path / f"rows.jsonl.{ending}", "\n".join([json.dumps(HH)] * 50).encode()
    path.write_bytes(pack.compress(text))
    assert read_records(path).formats == {"hh-rlhf": 50}
    table = write_csv(tmp_path / "rows.csv", TABLE)
    (tmp_path / f"rows.csv.{ending}").write_bytes(pack.compress(table.read_bytes()))
    assert outputs(tmp_path / f"rows.csv.{ending}") == TEXTS
    for broken in (pack.compress(text)[:-20], b"not compressed"):
        path.write_bytes(broken)
        with pytest.raises(CourseError, match=rf"rows\.jsonl\.{ending}: cut short or not a compressed file"):
            read_records(path)
        write(tmp_path / "parts" / "a.jsonl", [ALPACA])
        path.replace(tmp_path / "parts" / path.name)
        assert read_records(tmp_path / "parts", malformed="skip").formats["alpaca"] == 1


def test_what_datasets_writes_comes_back(tmp_path):
    """Columns that `datasets` stores as JSON, whole conversations among them, and times beside the text."""
    datasets = pytest.importorskip("datasets")
    if not hasattr(datasets, "Json"):
        pytest.skip("this version of datasets has no Json columns")
    mixed = [turn | {"content": text} for turn in CHAT["messages"] for text in ("007", "plain", "true")]
    rows = [{"messages": [mixed[n], mixed[n + 3]]} for n in range(3)]
    features = datasets.Features(
        {"messages": datasets.List({"role": datasets.Value("string"), "content": datasets.Json()})}
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "inner.parquet")
    assert [record.response for record in read_records(tmp_path / "inner.parquet").records] == ["007", "plain", "true"]
    features = datasets.Features({"messages": datasets.List(datasets.Json())})
    datasets.Dataset.from_list([CHAT], features=features).save_to_disk(tmp_path / "saved")
    [record] = read_records(tmp_path / "saved").records
    assert turns(record) == [("user", "Hi"), ("assistant", "Hello")]


def test_times_finer_than_pythons_do_not_stop_the_reading(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    times = pyarrow.array([1], pyarrow.timestamp("ns"))
    table = pyarrow.table({"instruction": ["Hi"], "output": ["Hello"], "created": times, "dated": times})
    parquet.write_table(table, tmp_path / "rows.parquet")
    reading = read_records(tmp_path / "rows.parquet")
    assert reading.records[0].source == f"{tmp_path / 'rows.parquet'}[0]"
    assert reading.unused == {"created": 1, "dated": 1}
    table = pyarrow.table({"instruction": ["Hi"], "output": times})  # what datasets makes of texts like dates
    parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(CourseError, match="'output' is of type datetime, expected a text"):
        read_records(tmp_path / "rows.parquet")
    (tmp_path / "rows.parquet").write_bytes((tmp_path / "rows.parquet").read_bytes()[:-30])
    with pytest.raises(CourseError, match=r"rows\.parquet: damaged or cut short"):
        read_records(tmp_path / "rows.parquet")


# --- CSV ---


def test_cells_with_line_breaks_keep_them_and_the_lines_are_counted(tmp_path):
    rows = [
        {**ALPACA, "output": 'one\ntwo, "three"'},
        {**ALPACA, "output": "long " * 100_000},
        {**ALPACA, "output": ""},
    ]
    path = write_csv(tmp_path / "rows.csv", rows)
    reading = read_records(path, malformed="skip")
    assert [record.response for record in reading.records] == [row["output"] for row in rows[:2]]
    assert [record.source for record in reading.records] == [f"{path}:2", f"{path}:4"]
    assert reading.problems == [f"{path}:5: 'output' is empty"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"one,two\n", "2 fields, and the first line names 3 columns"),
        (b"one,two,three,four\n", "4 fields, and the first line names 3 columns"),
        (b'"one"x,two,three\n', "not CSV (',' expected after '\"')"),
        (b"caf\xe9,two,three\n", "not UTF-8 text: save the table as CSV UTF-8"),
    ],
)
def test_a_broken_line_of_a_table_leaves_the_others(tmp_path, line, reason):
    path, right = tmp_path / "rows.csv", b"Hi,,Hello\n"
    path.write_bytes(b"\xef\xbb\xbfinstruction,input,output\r\n" + right + line + right)
    reading = read_records(path, malformed="skip")
    assert [record.source for record in reading.records] == [f"{path}:2", f"{path}:4"]
    assert len(reading.problems) == 1
    assert reading.problems[0].startswith(f"{path}:3: {reason}")


def test_tables_that_cannot_be_read_at_all(tmp_path):
    path = tmp_path / "rows.csv"
    for content, reason in (
        ('instruction,output\nHi,"Hello\n', "rows.csv:2: not CSV (unexpected end of data)"),  # cut short
        ("output,instruction,output\na,b,c\n", "rows.csv:1: the column 'output' is there twice"),
        ("Hi,Hello\nHow,Well\n", "no known format has the keys 'Hello', 'Hi'"),
        ("instruction,output\rHi,Hello\r", "end with a carriage return alone, as on old Macs: save the table as CSV"),
        ("instruction,output\n", "rows.csv has no rows: look whether it was saved whole"),
        ("", "rows.csv has no rows: look whether it was saved whole"),
    ):
        path.write_text(content)
        with pytest.raises(CourseError) as caught:
            read_records(path)
        assert reason in str(caught.value)


def test_conversations_in_a_table(tmp_path):
    path = write_csv(tmp_path / "rows.csv", [{"messages": json.dumps(CHAT["messages"]), "system": "Be brief."}])
    assert turns(read_records(path).records[0])[0] == ("system", "Be brief.")
    write_csv(path, [{"messages": str(CHAT["messages"])}])  # as pandas writes a list
    with pytest.raises(CourseError, match=r"rows\.csv:2: 'messages' is text and not JSON .* export it as JSON Lines"):
        read_records(path)


# --- JSON ---


def test_lines_are_counted_in_a_json_list(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps([ALPACA, {**ALPACA, "output": ""}, ALPACA], indent=4))
    with pytest.raises(CourseError, match=r"list\.json:7: 'output' is empty"):
        read_records(path)
    assert [r.source for r in read_records(path, malformed="skip").records] == [f"{path}:2", f"{path}:12"]


def test_a_json_error_names_its_own_line_and_column(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{json.dumps(ALPACA)}\n{{"a": 1\n{json.dumps(ALPACA)}\n')
    assert read_records(path, malformed="skip").problems == [
        f"{path}:2: not JSON (Expecting ',' delimiter at column 8)"
    ]
    path = tmp_path / "rows.json"
    path.write_text(f'[{json.dumps(ALPACA)},\n {{"a": 1,\n  "b" 2}}]')
    assert read_records(path, malformed="skip").problems == [
        f"{path}:3: not JSON from here on (Expecting ':' delimiter at column 7)"
    ]
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps([ALPACA], indent=1))
    with pytest.raises(CourseError, match=r"list.jsonl:1: not JSON .*, but a JSON list over several lines: name the"):
        read_records(path)


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_a_key_that_is_there_twice_is_refused(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    path.write_text(f'{{"instruction": "a", "output": "b", "output": "c"}}\n{json.dumps(ALPACA)}')
    reading = read_records(path, malformed="skip")
    assert reading.problems == [f"{path}:1: the key 'output' is there twice in one object"]
    assert len(reading.records) == 1


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
    with pytest.raises(CourseError, match=r"list\.json:1: (not JSON from here on|the file is cut short)"):
        read_records(path)


# --- what is not the data ---


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_told_apart_from_damage(tmp_path, ending, encoding):
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(b"\xfe\xff" * (encoding == "utf-16-be") + json.dumps(ALPACA).encode(encoding))
    with pytest.raises(CourseError, match="is in UTF-16 .* save it as UTF-8"):
        read_records(path, malformed="skip")


def test_json_that_was_unpacked_on_the_way_keeps_its_old_name(tmp_path):
    path = write(tmp_path / "rows.jsonl.gz", [ALPACA])
    with pytest.raises(CourseError, match=r"it is plain JSON, so take \.gz off its name"):
        read_records(path)


@pytest.mark.parametrize("ending", ["json", "jsonl", "ndjson", "csv", "parquet", "jsonl.gz"])
def test_a_pointer_and_a_web_page_are_told_apart_from_damage(tmp_path, ending):
    path = tmp_path / f"rows.{ending}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(CourseError, match="is a Git LFS pointer, not the data: run `git lfs pull`"):
        read_records(path, malformed="skip")
    path.write_text("<!DOCTYPE html>\n<html></html>")
    with pytest.raises(CourseError, match="is a web page, not the data: download the raw file"):
        read_records(path, malformed="skip")


@pytest.mark.parametrize(
    ("name", "cure"),
    [("a.xlsx", "save the sheet as CSV"), ("a.zip", "unpack it"), ("a.jsonl.zst", "decompress"), ("a.md", "They end")],
)
def test_other_files_are_refused_with_the_cure(tmp_path, name, cure):
    (tmp_path / name).write_text("x")
    with pytest.raises(CourseError, match=cure):
        list(file_rows(tmp_path / name))
