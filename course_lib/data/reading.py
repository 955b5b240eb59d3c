"""Records from a file, a folder or the hub, with every malformed row accounted for."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from course_lib.data.formats import UnknownFormat, check_format, list_of_formats, parse_map, parse_row, renamed
from course_lib.data.hub import load_hub
from course_lib.data.parts import check_part, part_named, part_of_row, read_folder
from course_lib.data.records import Malformed, Record
from course_lib.data.rows import ENDINGS, cure_for, file_rows
from course_lib.data.trees import assemble_trees, is_flat_message
from course_lib.errors import CourseError
from course_lib.suggestions import similar_paths

SHOWN_PROBLEMS, SHOWN_FIELDS = 5, 8


class Place(NamedTuple):
    """Where a row stands ("file:line"), and the part of the data set that it belongs to, or "" if that is unknown."""

    where: str
    part: str = ""


@dataclass
class Reading:
    """What was read.

    Attributes:
        records: the records, in the order of the rows.
        formats: how many rows each format had.
        problems: what was wrong ("file:line: reason").
        unused: how often a field that says something was not used, by its name.
    """

    records: list[Record] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        rows = sum(self.formats.values()) + len(self.problems)
        found = ", ".join(f"{count:,} {name}" for name, count in self.formats.items()) or "none understood"
        lines = [f"{rows:,} rows ({found}): {len(self.records):,} records, {len(self.problems):,} malformed"]
        parts = Counter(record.part or "of no part" for record in self.records)
        if len(parts) > 1:
            lines.append(f"  parts: {', '.join(f'{count:,} {part}' for part, count in parts.items())}")
        if self.unused:
            lines.append(f"  {self.unused_fields()}")
        lines += [f"  {problem}" for problem in self.problems[:SHOWN_PROBLEMS]]
        more = len(self.problems) - SHOWN_PROBLEMS
        return "\n".join([*lines, f"  and {more:,} more"] if more > 0 else lines)

    def unused_fields(self) -> str:
        """The fields that were not used, in words; "" where all were used."""
        if not self.unused:
            return ""
        shown = [f"{name} ({count:,})" for name, count in self.unused.most_common(SHOWN_FIELDS)]
        more = len(self.unused) - SHOWN_FIELDS
        return f"fields not used: {', '.join(shown)}{f' and {more} more' if more > 0 else ''}"


def read_records(
    source: str | Path | Sequence[Path],
    format: str = "auto",
    *,
    malformed: str = "refuse",
    split: str | None = None,
    config: str | None = None,
    map: str | Mapping[str, str] | None = None,
) -> Reading:
    """The records of a file, a folder of files, several files, or a data set on the hub.

    Args:
        source: a .json, .jsonl, .ndjson, .csv, .tsv (also .gz, .bz2, .xz), .parquet or .arrow file, a folder of such
            files, a list of files, or a data set's name on the hub.
        format: one of `formats.FORMATS`, or "auto" to tell it row by row.
        malformed: "refuse" raises at the first malformed row; "skip" keeps the others and lists it in `problems`.
        split: of a hub name, which split (train); of a folder, which part (all).
        config: of a hub name that has several configurations, which one: "main" of openai/gsm8k.
        map: our keys and the rows' own, as {"prompt": "question"} or "prompt=question,response=answer".

    Returns:
        The records, and an account of every row.

    Raises:
        CourseError: the source does not exist, a choice is not possible, no row could be read, or a row is malformed
            and malformed is "refuse".
    """
    check_format(format)
    if malformed not in ("refuse", "skip"):
        raise CourseError(f"malformed={malformed!r}: choose 'refuse' or 'skip'.")
    keys = parse_map(map) if isinstance(map, str) else map
    reading, hint = Reading(), ""
    for place, value in _with_trees(_rows(source, split, config), keys):
        try:
            row = parse_row(_as_object(value), format)
        except Malformed as problem:
            if isinstance(problem, UnknownFormat):
                hint = f"\n{list_of_formats()}."
            said = f"{place.where}: {problem}"
            if malformed == "refuse":
                raise CourseError(f"{said}. (malformed='skip' keeps the other rows.){hint}") from problem
            reading.problems.append(said)
            continue
        part = _own_part(value, row.unused) or place.part
        reading.formats[row.format] += 1
        reading.records += [dataclasses.replace(record, source=place.where, part=part) for record in row.records]
        reading.unused.update(row.unused)
    if not (reading.records or reading.problems):
        raise CourseError(f"{_named(source)} has no rows: look whether it was saved whole.")
    if not reading.records:
        raise CourseError(f"{_named(source)} has no record that could be read.\n{reading}{hint}")
    return reading


def _named(source: str | Path | Sequence[Path]) -> str:
    """The source, for a message."""
    return str(source) if isinstance(source, str | Path) else ", ".join(str(path) for path in source)


def _as_object(value: object) -> Mapping:
    """A row's values by key; Malformed where it has none."""
    if isinstance(value, Malformed):
        raise value
    if not isinstance(value, Mapping):
        raise Malformed(f"the row is of type {type(value).__name__}, expected an object")
    return value


def _own_part(value: object, unused: list[str]) -> str:
    """The part that a row's own field names, or ""; the field then counts as used."""
    part, key = part_of_row(value)
    if key in unused:
        unused.remove(key)
    return part


def _with_trees(rows: Iterable[tuple[Place, object]], keys: Mapping[str, str] | None) -> Iterator[tuple[Place, object]]:
    """The rows under our keys; OpenAssistant's flat messages are kept back and follow as the trees that they form."""
    messages = []
    for place, row in rows:
        if keys and isinstance(row, dict):
            try:
                row = renamed(row, keys)
            except Malformed as problem:
                row = problem
        if isinstance(row, dict) and is_flat_message(row):
            messages.append((place, row))
        else:
            yield place, row
    yield from assemble_trees(messages)


def _rows(source: str | Path | Sequence[Path], split: str | None, config: str | None) -> Iterator[tuple[Place, object]]:
    """Every row with its place. Only a folder's files are told apart by part; a single file may have any name."""
    if not isinstance(source, str | Path):
        for path in source:
            yield from ((Place(where), row) for where, row in file_rows(path))
        return
    path = Path(source).expanduser()
    if path.is_file():
        yield from ((Place(where), row) for where, row in file_rows(path))
    elif path.is_dir():
        yield from _folder_rows(path, split)
    elif path.name.lower().endswith(ENDINGS):
        raise CourseError(f"There is no file {source}.{similar_paths(path)}")
    elif cure := cure_for(path.name):
        raise CourseError(f"{source} is not a file of records{cure}.")
    else:
        split = split or "train"
        try:
            rows = load_hub(str(source), split, config)
        except CourseError as error:
            raise CourseError(f"{error}.{similar_paths(path)}") from error
        for number, row in enumerate(rows):
            yield Place(f"{source}[{split}]:{number}", part_named(split)), row


def _folder_rows(path: Path, split: str | None) -> Iterator[tuple[Place, object]]:
    """The rows of one part of a folder, or of all its files."""
    if split is not None:
        check_part(split)
    files = read_folder(path).files
    chosen = {split: files.get(split, [])} if split else files
    if not any(chosen.values()):
        found = ", ".join(part or "files of no part" for part in files)
        raise CourseError(f"{path} has no {split} part. It has {found}.")
    for part, group in chosen.items():
        for file in group:
            yield from ((Place(where, part), row) for where, row in file_rows(file))
