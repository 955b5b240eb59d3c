"""Records as a training source: which are held out, how long their rows become, and which are left out."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from course_lib.data.control_tokens import told_of_control_tokens
from course_lib.data.masking import Encoded, encode_records, fitting_length
from course_lib.data.parts import read_folder
from course_lib.data.reading import Reading, read_records
from course_lib.data.records import Record
from course_lib.data.tokenizers import Tokenizer, has_chat_template
from course_lib.errors import CourseError
from course_lib.finetuning.source import HELD_OUT, SHARE, Source, SourceOptions, pad_id, told_of_longer

MOST_FITTED = 1024  # tokens of a row at most, where the records decide


def read_record_source(path: Path, tokenizer: Tokenizer, options: SourceOptions) -> Source:
    """Read and tokenise a file or folder of records.

    Args:
        path: the file or folder. Of a folder the training part is trained on, and another part is held out.
        tokenizer: the model's.
        options: see `SourceOptions`.

    Returns:
        Examples to train on and to evaluate on, with notes on what was left out.

    Raises:
        CourseError: there are too few records, none of them can be used, or one is longer than is allowed.
    """
    return encode_source(str(path), read_parts(path, options), tokenizer, options)


def encode_source(
    name: str, parts: tuple[Reading, list[Record], list[str]], tokenizer: Tokenizer, options: SourceOptions
) -> Source:
    """Tokenise records that have been read.

    Args:
        name: of the source, for messages.
        parts: see `read_parts`.
        tokenizer: the model's.
        options: see `SourceOptions`.

    Returns:
        Examples to train on and to evaluate on, with notes on what was left out.

    Raises:
        CourseError: none of the records can be used, or one is longer than is allowed.
    """
    reading, held_out, notes = parts
    template = options.template or ("chat" if has_chat_template(tokenizer) else "instruction")
    whole, whole_held_out = (
        encode_records(with_progress(records), tokenizer, too_long="skip", template=template, train_on=options.train_on)
        for records in (reading.records[: options.max_train or None], held_out[: options.max_eval or None])
    )
    if not (whole.examples and whole_held_out.examples):
        which, problems = ("held-out ", whole_held_out.problems) if whole.examples else ("", whole.problems)
        raise CourseError(f"No {which}record of {name} can be used: {problems[0]}")
    too_long = options.too_long or "skip"
    fitting = fitting_length(whole.lengths, 1.0 if too_long == "error" else SHARE)
    seq_len = options.seq_len or min(fitting, MOST_FITTED, options.positions or MOST_FITTED)
    longer = told_of_longer(whole.lengths, options, seq_len, too_long, "records")
    if too_long == "error" and longer:
        raise CourseError(f"{name}: {longer}.")
    train, evaluated = (each.within(seq_len, too_long) for each in (whole, whole_held_out))
    if not (train.examples and evaluated.examples):
        which, cure = ("held-out ", "give a larger --seq-len") if train.examples else ("", longer or "raise it")
        raise CourseError(f"No {which}record of {name} leaves a response within {seq_len} tokens: {cure}.")
    notes += [*_left_out(reading, whole, train), *([longer] if longer else [])]
    notes += told_of_control_tokens(reading.records[: options.max_train or None], tokenizer, template)
    wanted = min(len(held_out), options.max_eval or len(held_out))
    if lost := wanted - len(evaluated.examples):
        notes.append(f"held-out records left out, too long or unusable: {lost:,} of {wanted:,}")
    what = f"{len(train.examples):,} examples in the {template} template, {train.trained:,} targets"
    return Source(what, train.examples, evaluated.examples, train.tokens, pad_id(tokenizer), seq_len, tuple(notes))


def with_progress(records: list[Record]) -> Iterable[Record]:
    """The records, with a progress bar on a terminal where they take longer than two seconds."""
    from tqdm import tqdm

    quiet = not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0"  # of several processes one shows it
    return tqdm(records, desc="encoding", unit=" records", delay=2, disable=quiet)


def read_parts(path: Path, options: SourceOptions) -> tuple[Reading, list[Record], list[str]]:
    """Read a file or folder of records, and hold a part of them out.

    Args:
        path: the file or folder.
        options: see `SourceOptions`.

    Returns:
        (what was read for training, the records held out, notes on which is which).

    Raises:
        CourseError: there are too few records.
    """
    known: dict[str, Any] = {"format": options.format, "map": options.map, "malformed": "skip"}
    held_out: list[Record] = []
    if path.is_dir():
        folder = read_folder(path)
        notes, (_, files) = folder.report(), folder.held_out
        reading = read_records(folder.training, **known)
        if files:
            others = read_records(files, **known)
            held_out = others.records
            if others.problems:
                notes.append(f"malformed held-out rows: {len(others.problems):,}, such as {others.problems[0]}")
    else:
        reading, notes = read_records(path, **known), []
    marked = _take_marked(reading, notes)
    held_out = held_out or marked
    if not reading.records:
        raise CourseError(f"{path} has no record for training: all of its rows say that they are held out.")
    if not held_out:
        if len(reading.records) < 2:
            malformed = f" Malformed: {reading.problems[0]}." if reading.problems else ""
            raise CourseError(f"{path} has one record: two are needed, one of them to hold out.{malformed}")
        total = len(reading.records)
        count = max(1, round(HELD_OUT * total))
        reading.records, held_out = reading.records[:-count], reading.records[-count:]
        notes.append(f"held out: the last {count:,} of {total:,} records")
    return reading, held_out, notes


def _take_marked(reading: Reading, notes: list[str]) -> list[Record]:
    """Take the rows out that say themselves that they are not for training; returns those to evaluate on."""
    marked = {part: [r for r in reading.records if r.part == part] for part in ("validation", "test")}
    reading.records = [record for record in reading.records if record.part in ("", "train")]
    part = "validation" if marked["validation"] else "test"
    if marked[part]:
        notes.append(f"held out ({part}): {len(marked[part]):,} rows that say so")
    if part == "validation" and marked["test"]:
        notes.append(f"not used: {len(marked['test']):,} rows that say 'test'")
    return marked[part]


def _left_out(reading: Reading, whole: Encoded, train: Encoded) -> list[str]:
    """Lines on the rows and records that are not trained on, and on the fields that no record has a place for."""
    lines = []
    if problems := reading.problems:
        lines.append(f"malformed rows left out: {len(problems):,}, such as {problems[0]}")
    if problems := whole.problems:
        lines.append(f"records left out: {len(problems):,}, such as {problems[0]}")
    empty = [problem for problem in train.problems[len(whole.problems) :] if "leave nothing" in problem]
    if empty:
        lines.append(f"records left out: {len(empty):,}, such as {empty[0]}")
    if rejected := sum(record.rejected is not None for record in reading.records):
        lines.append(f"rejected answers not used: {rejected:,}; the chosen ones are trained")
    if reading.unused:
        lines.append(reading.unused_fields())
    return lines
