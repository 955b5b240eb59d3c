"""Rows of Parquet and Arrow files, read by pyarrow."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from course_lib.data.records import Malformed
from course_lib.errors import CourseError, first_line

BATCH = 256  # rows that are made Python objects at a time


def table_rows(path: Path, name: str, kind: str) -> Iterator[tuple[str, object]]:
    """The rows of a table, as ("file[number]", row). A Malformed stands for what cannot be read.

    Args:
        path: the file.
        name: what to call it.
        kind: ".parquet", or ".arrow" as `datasets` writes it.

    Yields:
        Pairs of place and row.

    Raises:
        CourseError: pyarrow is not installed.
    """
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise CourseError(f"{name} is read by pyarrow, which is not installed: pip install '.[data]'.") from error
    number = 0
    try:
        for batch in _parquet_batches(path) if kind == ".parquet" else _arrow_batches(path):
            for row in batch_rows(batch):
                yield f"{name}[{number}]", row
                number += 1
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        yield name, Malformed(f"damaged or cut short ({first_line(error)}): download it again")


def _parquet_batches(path: Path) -> Iterator[Any]:
    """The record batches of a Parquet file."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        yield from file.iter_batches(BATCH)


def _arrow_batches(path: Path) -> Iterator[Any]:
    """The record batches of an Arrow file.

    `datasets` writes streams; other programs write Arrow's file format under the same ending.
    """
    import pyarrow

    with pyarrow.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            source.seek(0)
            file = pyarrow.ipc.open_file(source)
            yield from (file.get_batch(number) for number in range(file.num_record_batches))
        else:
            source.seek(0)
            yield from pyarrow.ipc.open_stream(source)


def batch_rows(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of a pyarrow RecordBatch, at most `BATCH` of them as Python objects at a time."""
    names = batch.schema.names
    for start in range(0, batch.num_rows, BATCH):
        columns = [_values(column) for column in batch.slice(start, BATCH).columns]
        for cells in zip(*columns, strict=True):
            yield dict(zip(names, cells, strict=True))


def _values(column: Any) -> Iterable[Any]:
    """A column's values. Times finer than microseconds, which Python does not have, are rounded."""
    import pyarrow

    kind = column.type
    if pyarrow.types.is_timestamp(kind):
        column = column.cast(pyarrow.timestamp("us", tz=kind.tz), safe=False)
    read, values = _reader_of(kind), column.to_pylist()
    return values if read is None else [read(value) for value in values]


def _reader_of(kind: Any) -> Callable[[Any], Any] | None:
    """A function that turns a value of the Arrow type `kind` into the row's own; None where no value changes."""
    import pyarrow

    if isinstance(kind, pyarrow.JsonType):
        return _from_json
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        inner = _reader_of(kind.value_type)
        if inner is None:
            return None
        return lambda values: values and [inner(value) for value in values]  # None and [] stay as they are
    if pyarrow.types.is_struct(kind):
        inners = {field.name: read for field in kind if (read := _reader_of(field.type)) is not None}
        if inners:
            # None stays None.
            return lambda value: value and value | {name: read(value[name]) for name, read in inners.items()}
    return None


def _from_json(text: str | None) -> object:
    """A value of a column that holds JSON: lists, objects and quoted texts are read, the rest stays text.

    `datasets` makes such a column where texts and other values were mixed. It stores the text "007" and the number 7
    as they are spelt, so that only reading both as texts gives back every text. (Only '"x"' in quotes cannot be told
    from 'x' any more.)
    """
    if text is None or not text.startswith(("[", "{", '"')):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
