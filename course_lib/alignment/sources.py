"""The records that alignment trains on: a file, a folder, or one of the package's generated data sets."""

from collections.abc import Sequence
from pathlib import Path

from course_lib.data.formats import check_format, parse_map, parse_row
from course_lib.data.generators import instruction_set, preference_pairs
from course_lib.data.parts import read_folder
from course_lib.data.reading import Reading, read_records
from course_lib.data.records import Record
from course_lib.data.rows import ENDINGS_IN_WORDS
from course_lib.errors import CourseError
from course_lib.finetuning.record_source import read_parts
from course_lib.finetuning.source import SourceOptions
from course_lib.finetuning.sources import check_source, has_records
from course_lib.suggestions import did_you_mean

GENERATED = {"instructions": instruction_set, "preferences": preference_pairs}  # by name, the two splits of each


def check_records(name: str, format: str = "auto", map: str | None = None) -> None:
    """Refuse a name that cannot be a source of records. This is quick, and imports nothing heavy.

    Args:
        name: a file or folder of records, or a key of `GENERATED`.
        format: see `read_records`.
        map: see `read_records`.

    Raises:
        CourseError: the source does not exist, or is a text without records.
    """
    path = Path(name).expanduser()
    if name in GENERATED and not path.exists():
        check_format(format)
        if map is not None:
            parse_map(map)
        return
    if not path.exists() and not has_records(path):
        raise CourseError(
            f"--dataset {name}: there is no such file or folder, and no generated data set of that name "
            f"({', '.join(GENERATED)}).{did_you_mean(name, GENERATED)}"
        )
    check_source(name, format, map)
    if not has_records(path):
        raise CourseError(
            f"--dataset {name} is a text and has no records of questions and answers ({ENDINGS_IN_WORDS}). "
            "course train learns texts."
        )


def read_record_parts(name: str, options: SourceOptions) -> tuple[Reading, list[Record], list[str]]:
    """Read the records of a source.

    Args:
        name: see `check_records`.
        options: how the records are read.

    Returns:
        (the records for training, the held-out records, notes on how they were divided).

    Raises:
        CourseError: there are too few records.
    """
    path = Path(name).expanduser()
    if name not in GENERATED or path.exists():
        return read_parts(path, options)
    train, held_out = (generated_records(name, split) for split in ("train", "held_out"))
    return Reading(train), held_out, [f"generated; its held-out questions are about other facts: {len(held_out):,}"]


def records_of_split(path: Path, split: str, format: str = "auto") -> list[Record]:
    """Read one split of a file or folder of records. What is held out does not become training data here either.

    Args:
        path: the file or folder.
        split: "train" or "held_out", which is the validation part or else the test part.
        format: see `read_records`.

    Returns:
        The records. A file whose rows do not say what they are for is taken whole, as it was named.

    Raises:
        CourseError: nothing of that split is there.
    """
    source: Path | list[Path] = path
    if path.is_dir():
        folder = read_folder(path)
        source = folder.training if split == "train" else folder.held_out[1]
        if not source:
            raise CourseError(f"{path} has no part that is held out: leave --split out to take all of it.")
    records = read_records(source, format).records
    marked = {part: [each for each in records if each.part == part] for part in ("validation", "test")}
    if split == "held_out":
        return marked["validation"] or marked["test"] or records
    records = [each for each in records if each.part in ("", "train")]
    if not records:
        raise CourseError(f"All rows of {path} say that they are held out: --split held_out takes them.")
    return records


def generated_records(name: str, split: str) -> list[Record]:
    """Generate one split of a data set as records.

    Args:
        name: a key of `GENERATED`.
        split: "train" or "held_out".

    Returns:
        The records; those of "preferences" have a rejected answer.

    Example:
        >>> generated_records("preferences", "train")[0].rejected is not None
        True
    """
    rows: Sequence[dict] = GENERATED[name](split)
    wanted = ("instruction", "input", "output", "prompt", "chosen", "rejected")
    found = []
    for number, row in enumerate(rows):
        parsed = parse_row({key: value for key, value in row.items() if key in wanted})
        found += [_named(record, f"{name}:{split}:{number}") for record in parsed.records]
    return found


def _named(record: Record, source: str) -> Record:
    return Record(record.messages, rejected=record.rejected, input=record.input, source=source)
