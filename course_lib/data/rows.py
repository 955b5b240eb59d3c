"""Rows of a file, each with its place: JSON, JSON Lines, CSV, Parquet and Arrow, as they stand in the file.

No value changes its type on the way: "007" and "2020-01-01" stay the texts that they are. CSV is read by Python's `csv`
module, so every value of it is a text; Parquet and Arrow are read by pyarrow.
"""

import bz2
import csv
import gzip
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

from course_lib.data.records import Malformed
from course_lib.errors import CourseError, first_line

Rows = Iterator[tuple[str, object]]  # (place, value or the Malformed that stands for it)

COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
TEXT_KINDS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
TABLE_KINDS = (".parquet", ".arrow")
ENDINGS = (*TEXT_KINDS, *(kind + packed for kind in TEXT_KINDS for packed in COMPRESSED), *TABLE_KINDS)
ENDINGS_IN_WORDS = f"{', '.join(TEXT_KINDS)} (also {', '.join(COMPRESSED)}), {', '.join(TABLE_KINDS)}"

# What people have in place of a file that can be read, and what to do about it.
CURES = {
    (".xlsx", ".xls", ".ods"): "save the sheet as CSV UTF-8",
    (".pdf", ".docx", ".doc", ".odt", ".rtf"): "save it as plain text",
    (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar"): "unpack it, and give the folder",
    (".zst", ".lz4", ".br"): "decompress it",
    (".gz", ".bz2", ".xz"): "decompress it",
}
BLANKS, BETWEEN = re.compile(r"[ \t\r\n]*"), re.compile(r"[ \t\r\n,]*")
LFS_POINTER, WEB_PAGE = b"version https://git-lfs", (b"<!doctype html", b"<html")
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks: what PowerShell's > and Excel's "Unicode text" write


def kind_of(name: str) -> str:
    """The kind of file that a name tells, such as ".jsonl" for data.jsonl.gz; "" for a kind that is not read here."""
    lowered = name.lower()
    if not lowered.endswith(ENDINGS):
        return ""
    for packed in COMPRESSED:
        lowered = lowered.removesuffix(packed)
    return lowered[lowered.rindex(".") :]


def stem_of(name: str) -> str:
    """A file's name without the ending that tells its kind."""
    endings = (ending for ending in ENDINGS if name.lower().endswith(ending))
    return name[: len(name) - max(map(len, endings), default=0)]


def cure_for(name: str) -> str:
    """What to do about a file that is not read, after a colon; "" where nothing is known."""
    found = (cure for endings, cure in CURES.items() if name.lower().endswith(endings))
    return next((f": {cure}" for cure in found), "")


def file_rows(path: Path, name: str | None = None, **csv_options: Any) -> Rows:
    """The rows of a file, as ("file:line", value). A Malformed stands for what cannot be read.

    Args:
        path: the file.
        name: its name where `path` does not show it, as in a cache; the ending tells the format.
        csv_options: `delimiter` and `names` of the columns, where they are known.

    Returns:
        An iterator over pairs of place and value.

    Raises:
        CourseError: the file is of no kind that is read here, or a pointer or web page in place of the data.
    """
    name = name or str(path)
    kind = kind_of(name)
    if not kind:
        raise CourseError(f"{name} is not a file of records{cure_for(name)}. They end with {ENDINGS_IN_WORDS}.")
    refuse_stand_in(path, name)
    if kind in TABLE_KINDS:
        from course_lib.data.tables import table_rows

        return table_rows(path, name, kind)
    return _text_rows(path, name, kind, csv_options)


def refuse_stand_in(path: Path, name: str | None = None) -> None:
    """Refuse a file that was saved in place of the data.

    Args:
        path: the file.
        name: what to call it in the message.

    Raises:
        CourseError: it is a Git LFS pointer, a web page, or text in UTF-16.
    """
    with open(path, "rb") as file:
        start = file.read(200)
    if start.startswith(UTF_16):
        raise CourseError(f"{name or path} is in UTF-16 (PowerShell's > writes that): save it as UTF-8.")
    beginning = start.lstrip(b"\xef\xbb\xbf \r\n").lower()
    if beginning.startswith(LFS_POINTER):
        raise CourseError(f"{name or path} is a Git LFS pointer, not the data: run `git lfs pull` in its repository.")
    if beginning.startswith(WEB_PAGE):
        raise CourseError(f"{name or path} is a web page, not the data: download the raw file.")


def _text_rows(path: Path, name: str, kind: str, csv_options: dict[str, Any]) -> Rows:
    """The rows of a JSON, JSON Lines, CSV or TSV file, compressed or not."""
    packed = next((opener for ending, opener in COMPRESSED.items() if name.lower().endswith(ending)), open)
    readers: dict[str, Callable[[IO[bytes]], Iterator[tuple[int, object]]]] = {
        ".json": _elements,
        ".csv": lambda file: _csv_rows(file, **csv_options),
        ".tsv": lambda file: _csv_rows(file, **{"delimiter": "\t", **csv_options}),
    }
    try:
        with packed(path, "rb") as file:
            for line, row in readers.get(kind, _lines)(file):
                yield f"{name}:{line}", row
    except UnicodeDecodeError as error:
        yield name, Malformed(f"not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8")
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        yield name, Malformed(f"cut short or not a compressed file ({first_line(error)}): {_cure_for_packed(path)}")
    except OSError as error:  # bz2 has no exception of its own
        if packed is not bz2.open or error.errno is not None:
            raise
        yield name, Malformed(f"cut short or not a compressed file ({first_line(error)}): {_cure_for_packed(path)}")


def _cure_for_packed(path: Path) -> str:
    """What to do about a file that cannot be unpacked. Browsers and some libraries unpack a download by themselves."""
    with open(path, "rb") as file:
        is_text = file.read(1) in (b"{", b"[")
    return f"it is plain JSON, so take {path.suffix} off its name" if is_text else "download it again"


class _Decoder(json.JSONDecoder):
    """Python's JSON decoder, which also reports an object with a key twice: one of its two values would be lost."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=self._object)
        self.repeated: list[str] = []

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            self.repeated += [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        return made

    def checked(self, value: object) -> object:
        """`value`, or the Malformed that stands for it."""
        repeated, self.repeated = self.repeated, []
        return Malformed(f"the key {repeated[0]!r} is there twice in one object") if repeated else value


def _lines(file: Iterable[bytes]) -> Iterator[tuple[int, object]]:
    """The values of JSON Lines."""
    decoder = _Decoder()
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                yield number, decoder.checked(decoder.decode(line.decode("utf-8-sig").strip()))
            except UnicodeDecodeError as error:
                yield number, Malformed(f"not UTF-8 text ({error.reason})")
            except (ValueError, RecursionError) as error:
                hint = ", but a JSON list over several lines: name the file .json" if line.strip() == b"[" else ""
                yield number, Malformed(f"not JSON ({_what_is_wrong(error)}){hint}")


def _what_is_wrong(error: ValueError | RecursionError) -> str:
    """A JSON error in words, with the column; the line is in the place."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    # Python reads no integer of more than 4,300 digits, which is the only other ValueError of its decoder.
    return "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"


def _elements(file: IO[bytes]) -> Iterator[tuple[int, object]]:
    """The elements of a JSON array one by one, each with the line that it begins on; or the values of the text."""
    text = file.read().decode("utf-8-sig")
    decoder, line, seen = _Decoder(), 1, 0
    position = _after(BLANKS, text, 0)
    array = text.startswith("[", position)
    position = _after(BLANKS, text, position + array)
    while position < len(text) and not (array and text[position] == "]"):
        line, seen = line + text.count("\n", seen, position), position
        try:
            row, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            # Where a broken element ends cannot be known, so nothing after it can be read.
            at = error.lineno if isinstance(error, json.JSONDecodeError) else line
            yield at, Malformed(f"not JSON from here on ({_what_is_wrong(error)})")
            return
        yield line, decoder.checked(row)
        position = _after(BETWEEN, text, position)
    line += text.count("\n", seen, position)
    if array and position == len(text):
        yield line, Malformed("the file is cut short: its list is not closed")
    elif array and text[position + 1 :].strip():
        yield line, Malformed("something follows the end of the list, and was not read")


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    """Where the characters end that `pattern` takes from `position` on; it may take none."""
    found = pattern.match(text, position)
    return found.end() if found else position


class _Lines(Iterator[str]):
    """The lines of a file as text, one by one: after a line in another encoding the next one can still be read."""

    def __init__(self, file: IO[bytes]):
        self.file, self.number = file, 0

    def __next__(self) -> str:
        line = next(self.file)
        self.number += 1
        return line.decode("utf-8-sig" if self.number == 1 else "utf-8")


def _what_is_wrong_in_table(error: csv.Error | UnicodeDecodeError) -> str:
    """An error of the `csv` module in words."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text: save the table as CSV UTF-8 ({first_line(error)})"
    if "new-line character" in str(error):
        return "its lines end with a carriage return alone, as on old Macs: save the table as CSV UTF-8"
    return f"not CSV ({first_line(error)})"


def _csv_rows(
    file: IO[bytes], delimiter: str | None = None, names: list[str] | None = None
) -> Iterator[tuple[int, object]]:
    """The rows of a table, by the names in its first line. Every value is the text that stands in the file."""
    csv.field_size_limit(1 << 30)  # the module's own limit is 128 KiB, less than a long conversation
    lines = _Lines(file)
    first = next(lines, "")
    if delimiter is None:
        delimiter = max(",;\t", key=first.count)  # Excel writes semicolons where the comma is the decimal sign
    reader, line = csv.reader(chain([first], lines), delimiter=delimiter, strict=True), 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, UnicodeDecodeError) as error:
            yield line, Malformed(_what_is_wrong_in_table(error))
            cells = []
        if names is None:
            names = cells
            if repeated := [name for name, count in Counter(names).items() if count > 1]:
                yield line, Malformed(f"the column {repeated[0]!r} is there twice: rename one of them")
                return
        elif len(cells) == len(names):
            yield line, dict(zip(names, cells, strict=True))
        elif cells:
            yield line, Malformed(f"{len(cells)} fields, and the first line names {len(names)} columns")
        line = lines.number + 1
