"""Plain-text corpora by name or path: TinyStories, WikiText-2, a folder of WikiText files, a text file."""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from course_lib.data.reading import load_hub
from course_lib.errors import CourseError

# name -> (hub name, configuration, the column that holds the text)
NAMED = {
    "tinystories": ("roneneldan/TinyStories", None, "text"),
    "wikitext2": ("Salesforce/wikitext", "wikitext-2-raw-v1", "text"),
}
WIKI_SPLIT = {"train": "train", "val": "valid", "validation": "valid", "test": "test"}
HUB_SPLIT = {"val": "validation"}


def read_corpus(source: str | Path, split: str = "train", limit: int | None = None) -> list[str]:
    """The documents of a corpus: stories, articles, or the one text of a file.

    source: "tinystories" or "wikitext2" (from the hub or its cache), a folder with wiki.train.raw or wiki.train.tokens
    and so on, or a UTF-8 text file (which has no splits). split: train, val or test. limit: at most so many documents.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        documents = split_articles(_read(_wikitext_file(path, split)))
    elif path.is_file():
        documents = [_read(path)]
    elif str(source) in NAMED:
        name, config, column = NAMED[str(source)]
        rows = (row[column] for row in load_hub(name, HUB_SPLIT.get(split, split), config))
        texts = _articles(rows) if source == "wikitext2" else (text for text in rows if text.strip())
        documents = list(islice(texts, limit or None))
    else:
        raise CourseError(
            f"There is no corpus {source!r}: give {', '.join(NAMED)}, a text file, or a folder with wiki.train.raw."
        )
    return documents[:limit]


def _wikitext_file(folder: Path, split: str) -> Path:
    name = WIKI_SPLIT.get(split, split)
    for ending in ("raw", "tokens"):
        if (path := folder / f"wiki.{name}.{ending}").is_file():
            return path
    found = ", ".join(sorted(path.name for path in folder.glob("wiki.*.*"))) or "no wiki.*.raw or wiki.*.tokens file"
    raise CourseError(f"{folder} has no wiki.{name}.raw and no wiki.{name}.tokens; it has {found}.")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CourseError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from error


def split_articles(text: str) -> list[str]:
    """A WikiText file cut before each article's title, " = Title = "; sections have two or more signs."""
    return list(_articles(text.splitlines(keepends=True)))


def _articles(lines: Iterable[str]) -> Iterator[str]:
    article: list[str] = []
    for line in lines:
        if re.fullmatch(r" = [^=].*[^=] = \n?", line) and any(part.strip() for part in article):
            yield "".join(article)
            article = []
        article.append(line)
    if any(part.strip() for part in article):
        yield "".join(article)
