"""Which files of a folder are for training, and which ones are held out.

A part is told by a word in a file's name, or else in the name of a folder that it is in, the innermost first:
`train.jsonl`, `data/test-00000-of-00001.parquet`, `gsm8k_dev.json`, `harmless-base/train.jsonl.gz`,
`validation/0000.parquet`. These are the words that the hub's own library looks for, and a few more.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from course_lib.data.records import PARTS
from course_lib.data.rows import ENDINGS_IN_WORDS, cure_for, kind_of, stem_of
from course_lib.errors import CourseError

WORDS = {
    "train": ("train", "training"),
    "validation": (
        *("validation", "validate", "valid", "val", "dev", "development"),
        *("eval", "evals", "evaluation", "heldout"),
    ),
    "test": ("test", "tests", "testing"),
}
COMPOUNDS = ("", "set", "data", "split")  # trainset, testdata: written as one word in small letters
PART_OF_WORD = {word + end: part for part, words in WORDS.items() for word in words for end in COMPOUNDS}
# What `datasets` and its hub write beside the data; their rows are not records.
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
ROW_FIELDS = ("split", "partition")  # in which a row itself says what it is for
ONE_BY_ONE = 3  # files with names that differ by a number only are listed one by one up to this many


def part_named(name: str) -> str:
    """The part that a name tells: "train", "validation", "test" or "". Of several such words the last one decides."""
    name = re.sub(r"(?:held|hold)[-_. ]?out", "heldout", name, flags=re.I)
    words = (word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name))
    found = [PART_OF_WORD[word] for word in words if word in PART_OF_WORD]
    return found[-1] if found else ""


def part_of_row(row: object) -> tuple[str, str]:
    """The part that a row's own field names, and that field; ("", "") where the row does not say what it is for.

    Example:
        >>> part_of_row({"problem": "2 + 3", "split": "dev"})
        ('validation', 'split')
    """
    for key in ROW_FIELDS:
        named = row.get(key) if isinstance(row, Mapping) else None
        if isinstance(named, str) and (part := part_named(named)):
            return part, key
    return "", ""


def part_of(path: PurePath) -> str:
    """The part that a file belongs to, by its path relative to the data set's folder; "" where nothing says so."""
    names = (stem_of(path.name), *(folder.name for folder in path.parents))
    return next((part for name in names if (part := part_named(name))), "")


@dataclass
class Folder:
    """The files of a folder by part.

    Attributes:
        path: the folder.
        files: those that can be read, by part; "" for those whose part nothing tells.
        others: those that cannot be read, or that describe the data.
    """

    path: Path
    files: dict[str, list[Path]] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)

    @property
    def training(self) -> list[Path]:
        """The files to train on: the training part. Without one, those whose part nothing tells.

        Raises:
            CourseError: all files are held out.
        """
        files = self.files.get("train") or self.files.get("")
        if not files:
            held_out = listed([*self.files.get("validation", []), *self.files.get("test", [])], self.path)
            raise CourseError(f"{self.path} has no training part: {held_out} is held out. Name a file to train on it.")
        return files

    @property
    def held_out(self) -> tuple[str, list[Path]]:
        """(part, files) to evaluate on: the validation part, else the test part; ("", []) where there is neither."""
        for part in ("validation", "test"):
            if self.files.get(part):
                return part, self.files[part]
        return "", []

    def report(self) -> list[str]:
        """Lines that say what each file is used for."""
        part, held_out = self.held_out
        used = [*self.training, *held_out]
        unused = [file for files in self.files.values() for file in files if file not in used]
        lines = [f"train: {listed(self.training, self.path)}"]
        if held_out:
            lines.append(f"held out ({part}): {listed(held_out, self.path)}")
        if unread := sorted([*unused, *self.others]):
            lines.append(f"not read: {listed(unread, self.path)}")
        return lines


def read_folder(path: Path) -> Folder:
    """Sort the files below `path` by part. Hidden files and folders are passed over.

    Raises:
        CourseError: there is no file that can be read.
    """
    folder = Folder(path)
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path)
        if not file.is_file() or any(part.startswith((".", "__")) for part in inside.parts):
            continue  # .ipynb_checkpoints, __MACOSX and the like hold copies of the data
        if file.name in DESCRIPTIONS or not kind_of(file.name):
            folder.others.append(file)
        else:
            folder.files.setdefault(part_of(inside), []).append(file)
    if not folder.files:
        found = f"It has {listed(folder.others, path)}{cure_for(folder.others[0].name)}." if folder.others else ""
        if any(file.suffix in (".txt", ".md") for file in folder.others):
            found += " Of plain text, name one file, or let course prepare --input FILES --output DIR make shards."
        raise CourseError(f"The folder {path} has no file that ends with {ENDINGS_IN_WORDS}. {found}".rstrip())
    return folder


def listed(files: Sequence[Path], folder: Path) -> str:
    """Files in words; many that differ by a number only are given as one pattern.

    Args:
        files: which files.
        folder: what their paths are shown relative to.

    Returns:
        Names and patterns, with commas between them.
    """
    alike: dict[str, list[str]] = {}
    for file in files:
        name = file.relative_to(folder).as_posix()
        alike.setdefault(re.sub(r"\d+", "*", name), []).append(name)
    shown: list[str] = []
    for pattern, names in alike.items():
        shown += names if len(names) <= ONE_BY_ONE else [f"{pattern} ({len(names)} files)"]
    return ", ".join(shown)


def check_part(part: str) -> None:
    """Raises CourseError where `part` is not one of `PARTS`."""
    if part not in PARTS:
        raise CourseError(f"There is no part {part!r}. The parts of a folder are {', '.join(PARTS)}.")
