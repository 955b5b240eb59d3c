"""Rows of a data set by its name on the hub, exactly as they stand in its files.

`datasets` finds the files of a name and downloads them, and `rows` reads them. The library's own way through Arrow
changes values: in a JSON column of texts and numbers "007" comes back as 7, and a column of which every text looks like
a date comes back as timestamps (datasets 5.2).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from course_lib.data.rows import file_rows, kind_of
from course_lib.data.tables import BATCH, batch_rows
from course_lib.errors import CourseError

PLAIN_SPLIT = re.compile(r"\w[\w.-]*")


def load_hub(name: str, split: str = "train", config: str | None = None) -> Iterator[Any]:
    """The rows of a data set on the hub, or in the hub's cache on this machine.

    Args:
        name: such as "openai/gsm8k".
        split: one split, or an expression of `datasets` such as "train[:10%]".
        config: which configuration, where there are several.

    Returns:
        An iterator over the rows. A Malformed stands for a broken one.

    Raises:
        CourseError: `datasets` is not installed, or it has no such data set, split or configuration.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise CourseError(
            f"{name} is neither a file nor a folder, and names on the hub need datasets: pip install '.[data]'."
        ) from error
    try:
        builder = _builder(name, config)
        if not _can_be_read(builder):
            return _rows_of(datasets.load_dataset(name, config, split=split))
        if PLAIN_SPLIT.fullmatch(split):
            return _split_rows(builder, split)
        return _selected(builder, split)
    except CourseError:
        raise
    except Exception as error:  # the library raises many kinds: offline, unknown name, unknown split, broken files
        # The second line lists the choices.
        reason = " ".join(str(error).splitlines()[:2]).strip() or type(error).__name__
        if datasets.config.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE is set and the cache does not have it. Unset it, or give a file"
        raise CourseError(f"{name} is neither a file nor a folder, and the hub did not give it: {reason}") from error


def _builder(name: str, config: str | None) -> Any:
    """What `datasets` knows of a name's files. Without a network it knows those that were downloaded before."""
    import datasets
    from huggingface_hub import snapshot_download

    try:
        builder = datasets.load_dataset_builder(name, config)
        if builder.config.data_files is not None:
            return builder
        problem: Exception | None = None  # it found its own converted copy, in which values may have changed
    except Exception as error:
        builder, problem = None, error
    try:
        folder = snapshot_download(name, repo_type="dataset", local_files_only=True)
        return datasets.load_dataset_builder(folder, config)
    except Exception:
        if problem is not None:
            raise problem from None
        return builder


def _can_be_read(builder: Any) -> bool:
    """Whether all files of a data set are of kinds that `rows` reads unchanged."""
    files = builder.config.data_files
    if files is None or getattr(builder.config, "field", None):  # the rows are in one field of a JSON object
        return False
    return all(kind_of(str(file)) for split in files.values() for file in split)


def _split_rows(builder: Any, split: str) -> Iterator[Any]:
    """The rows of one split, after all files of the data set were downloaded: later they may be wanted offline."""
    import datasets

    files = builder.config.data_files
    splits = list(files) if split == "all" else [split]
    if split not in (*files, "all"):
        raise CourseError(f"{builder.dataset_name} has no split {split!r}. It has {', '.join(map(str, files))}.")
    downloads = datasets.DownloadManager(dataset_name=builder.dataset_name, base_path=builder.base_path)
    local = {str(each): downloads.download([str(file) for file in files[each]]) for each in files}
    options = {}
    if (separator := getattr(builder.config, "sep", ",")) != ",":  # as the data set's card says
        options["delimiter"] = separator
    if names := getattr(builder.config, "names", None):
        options["names"] = names
    pairs = [pair for each in splits for pair in zip(files[each], local[str(each)], strict=True)]
    return (row for name, path in pairs for _, row in file_rows(Path(path), str(name), **options))


def _selected(builder: Any, expression: str) -> Iterator[Any]:
    """The rows of an expression such as "train[:10%]+test"."""
    import datasets

    known = [str(name) for name in builder.config.data_files]
    named = [name for name in known if re.search(rf"\b{re.escape(name)}\b", expression)]
    rows = {name: list(_split_rows(builder, name)) for name in named}
    counts = {name: len(each) for name, each in rows.items()}
    parts = datasets.ReadInstruction.from_spec(expression).to_absolute(counts)
    return (row for part in parts for row in rows[part.splitname][part.from_ : part.to])


def _rows_of(dataset: Any) -> Iterator[Any]:
    """Rows of files that only `datasets` can read, or of its converted copy where nothing else is on this machine.

    A text that the library turned into a date stays one here, and the parsers refuse it: it cannot be turned back.
    """
    for table in dataset.with_format("arrow").iter(BATCH):
        for batch in table.to_batches():
            yield from batch_rows(batch)
