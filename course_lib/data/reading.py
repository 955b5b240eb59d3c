"""Records from a file, a folder or the hub, with every malformed row accounted for."""

import dataclasses
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_lib.data.formats import FORMATS, Malformed, assemble_trees, detect
from course_lib.data.records import Record
from course_lib.errors import CourseError, first_line

ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
BLANKS, BETWEEN = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n,]*")


@dataclass
class Reading:
    """What was read: the records, how many rows each format had, and what was wrong ("file:line: reason")."""

    records: list[Record] = field(default_factory=list)
    formats: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = sum(self.formats.values()) + len(self.problems)
        found = ", ".join(f"{count:,} {name}" for name, count in self.formats.items()) or "none understood"
        lines = [f"{rows:,} rows ({found}): {len(self.records):,} records, {len(self.problems):,} malformed"]
        lines += [f"  {problem}" for problem in self.problems[:5]]
        more = len(self.problems) - 5
        return "\n".join([*lines, f"  and {more:,} more"] if more > 0 else lines)


def read_records(
    source: str | Path,
    format: str = "auto",
    *,
    malformed: str = "refuse",
    split: str = "train",
    config: str | None = None,
) -> Reading:
    """The records of `source`: a .json or .jsonl file (also .gz), a folder of such files, or a data set's name on the
    hub (with `split`, and `config` where it has several: "main" of openai/gsm8k).

    format: one of `FORMATS`, or "auto" to tell it row by row. malformed: "refuse" raises CourseError at the first
    malformed row with file, line and reason; "skip" keeps the others and lists it in `problems`.
    """
    if format not in ("auto", *FORMATS):
        raise CourseError(f"There is no format {format!r}: choose auto or one of {', '.join(FORMATS)}.")
    if malformed not in ("refuse", "skip"):
        raise CourseError(f"malformed={malformed!r}: choose 'refuse' or 'skip'.")
    reading = Reading()
    for where, row in _with_trees(_rows(source, split, config)):
        try:
            if isinstance(row, Malformed):
                raise row
            if not isinstance(row, dict):
                raise Malformed(f"the row is of type {type(row).__name__}, expected an object")
            name = detect(row) if format == "auto" else format
            if missing := FORMATS[name].keys - row.keys():
                raise Malformed(f"{name} wants {', '.join(sorted(missing))} too")
            records = FORMATS[name].parse(row)
        except Malformed as problem:
            if malformed == "refuse":
                raise CourseError(f"{where}: {problem}. (malformed='skip' keeps the other rows.)") from problem
            reading.problems.append(f"{where}: {problem}")
            continue
        reading.formats[name] += 1
        reading.records += [dataclasses.replace(record, source=where) for record in records]
    if not reading.records:
        raise CourseError(f"{source} has no record that could be read.\n{reading}")
    return reading


def _with_trees(rows: Iterator[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    """The rows; OpenAssistant's flat messages are kept back and follow at the end as the trees that they form."""
    messages = []
    for where, row in rows:
        if isinstance(row, dict) and {"message_id", "parent_id", "text", "role"} <= row.keys():
            messages.append((where, row))
        else:
            yield where, row
    yield from assemble_trees(messages)


def _rows(source: str | Path, split: str, config: str | None) -> Iterator[tuple[str, object]]:
    path = Path(source).expanduser()
    if path.is_file():
        yield from _file_rows(path)
    elif path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.name.endswith(ENDINGS))
        if not files:
            raise CourseError(f"The folder {path} has no file that ends with {', '.join(ENDINGS)}.")
        for file in files:
            yield from _file_rows(file)
    elif path.name.endswith(ENDINGS):
        raise CourseError(f"There is no file {source}.")
    else:
        for number, row in enumerate(load_hub(str(source), split, config)):
            yield f"{source}[{split}]:{number}", row


def _file_rows(path: Path) -> Iterator[tuple[str, object]]:
    """("file:line", row or the Malformed that stands for it) for each row of a .json or .jsonl file."""
    if not path.name.endswith(ENDINGS):
        raise CourseError(f"{path}: records are read from files that end with {', '.join(ENDINGS)}.")
    opened = gzip.open if path.suffix == ".gz" else open
    lines = path.name.removesuffix(".gz").endswith(".jsonl")
    try:
        with opened(path, "rb") as file:
            rows = _lines(file) if lines else _elements(file.read().decode("utf-8-sig"))
            for line, row in rows:
                yield f"{path}:{line}", row
    except UnicodeDecodeError as error:
        yield str(path), Malformed(f"not UTF-8 text ({error.reason} at byte {error.start})")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield str(path), Malformed(f"cut short or no gzip file ({error})")


def _lines(file: Iterable[bytes]) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                yield number, json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                yield number, Malformed(f"not UTF-8 text ({error.reason})")
            except (ValueError, RecursionError) as error:
                yield number, Malformed(f"no JSON ({error})")


def _elements(text: str) -> Iterator[tuple[int, object]]:
    """The elements of a JSON array one by one, each with the line that it begins on; or the one value of the text."""
    decoder, line, seen = json.JSONDecoder(), 1, 0
    position = _after(BLANKS, text, 0)
    array = text.startswith("[", position)
    position = _after(BLANKS, text, position + array)
    while position < len(text) and not (array and text[position] == "]"):
        line, seen = line + text.count("\n", seen, position), position
        try:
            row, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            # Where a broken element ends cannot be known, so nothing after it can be read.
            yield line, Malformed(f"no JSON from here on ({error})")
            return
        yield line, row
        position = _after(BETWEEN, text, position)
    line += text.count("\n", seen, position)
    if array and position == len(text):
        yield line, Malformed("the file is cut short: its list is not closed")
    elif array and text[position + 1 :].strip():
        yield line, Malformed("something follows the end of the list, and was not read")


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    """Where the characters that `pattern` takes from `position` on, perhaps none, end."""
    found = pattern.match(text, position)
    return found.end() if found else position


def load_hub(name: str, split: str, config: str | None = None) -> Any:
    """Rows of a data set by its hub name, through `datasets` and its cache. CourseError where it is not to be had."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise CourseError(f"{name} is neither a file nor a folder, and datasets is not installed.") from error
    try:
        return datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the library raises many kinds: offline, unknown name, unknown split, broken files
        reason = first_line(error)
        if datasets.config.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE is set and the cache does not have it; unset it, or give a file"
        raise CourseError(f"{name} is neither a file nor a folder, and the hub did not give it: {reason}") from error
