"""Plain-text corpora by name or path: TinyStories, WikiText-2, a folder of WikiText files, a text file."""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from course_lib.data.hub import load_hub
from course_lib.data.records import Malformed
from course_lib.data.rows import cure_for, refuse_stand_in
from course_lib.errors import CourseError
from course_lib.suggestions import similar_paths

# name -> (hub name, configuration, the column that holds the text)
NAMED = {
    "tinystories": ("roneneldan/TinyStories", None, "text"),
    "wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1", "text"),
    "openwebtext": ("Skylion007/openwebtext", None, "text"),
    "bookcorpus": ("bookcorpus/bookcorpus", None, "text"),
}
WIKI_SPLIT = {"train": "train", "val": "valid", "validation": "valid", "test": "test"}
HUB_SPLIT = {"val": "validation"}


def read_corpus(source: str | Path, split: str = "train", limit: int | None = None) -> list[str]:
    """The documents of a corpus: stories, articles, or the one text of a file.

    Args:
        source: "tinystories" or "wikitext2" (from the hub or its cache), a folder with wiki.train.raw or
            wiki.train.tokens and so on, or a UTF-8 text file (which is not split).
        split: train, val or test.
        limit: at most so many documents.

    Returns:
        The text of each document.

    Raises:
        CourseError: there is no such corpus, or a file is not UTF-8 text.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        documents = split_articles(_read(_wikitext_file(path, split)))
    elif path.is_file():
        documents = [_read(path)]
    elif str(source) in NAMED:
        texts = _hub_texts(str(source), HUB_SPLIT.get(split, split))
        documents = list(islice(texts, limit or None))
    else:
        raise no_corpus(source)
    return documents[:limit]


def no_corpus(source: str | Path, others: Iterable[str] = ()) -> CourseError:
    """The error for a corpus that does not exist, with what may have been meant.

    Args:
        source: what was given.
        others: names that could have been given besides `NAMED`.

    Returns:
        The error, to be raised.
    """
    hint = similar_paths(Path(source).expanduser(), (*NAMED, *others))
    known = ", ".join((*NAMED, *others))
    return CourseError(
        f"There is no corpus {str(source)!r}: give {known}, a text file, or a folder with wiki.train.raw.{hint}"
    )


def _hub_texts(corpus: str, split: str) -> Iterator[str]:
    """The documents of a named corpus, one by one."""
    name, config, column = NAMED[corpus]
    rows = load_hub(name, split, config)
    texts = (_column(row, column, f"{name}[{split}]:{number}") for number, row in enumerate(rows))
    return _articles(texts) if corpus == "wikitext2" else (text for text in texts if text.strip())


def _column(row: Any, column: str, where: str) -> str:
    """The text of one row; CourseError where it has none."""
    if isinstance(row, Malformed):
        raise CourseError(f"{where}: {row}.")
    if not isinstance(row, dict) or not isinstance(row.get(column), str):
        raise CourseError(f"{where}: the row has no text in {column!r}.")
    return row[column]


def _wikitext_file(folder: Path, split: str) -> Path:
    """The file of a split: .raw keeps rare words, .tokens has <unk> for them, so .raw is taken first."""
    name = WIKI_SPLIT.get(split, split)
    for ending in ("raw", "tokens"):
        if (path := folder / f"wiki.{name}.{ending}").is_file():
            return path
    found = ", ".join(sorted(path.name for path in folder.glob("wiki.*.*"))) or "none of the other parts either"
    raise CourseError(f"{folder} contains neither wiki.{name}.raw nor wiki.{name}.tokens; it contains {found}.")


def _read(path: Path) -> str:
    """The text of a UTF-8 file; CourseError where it holds nothing but white space."""
    refuse_stand_in(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        cure = cure_for(path.name) or ": save it as UTF-8"
        raise CourseError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}){cure}.") from error
    if not text.strip():
        raise CourseError(f"{path} holds no text: look whether it was saved whole, or name another file.")
    return text


def split_articles(text: str) -> list[str]:
    """Cut a WikiText file before each article's title, " = Title = ". Titles of sections have two or more signs."""
    return list(_articles(text.splitlines(keepends=True)))


def _articles(lines: Iterable[str]) -> Iterator[str]:
    """The lines put together to articles; blank ones before the first title belong to the first article."""
    article: list[str] = []
    for line in lines:
        if re.fullmatch(r" = [^=].*[^=] = \n?", line) and any(part.strip() for part in article):
            yield "".join(article)
            article = []
        article.append(line)
    if any(part.strip() for part in article):
        yield "".join(article)
