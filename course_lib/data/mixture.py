"""A mix of corpora with a target of tokens: which texts a model reads, in which shares, and how often.

Generated texts have no end. A corpus that has one is read again where its share asks for more than it holds. Up to four
passes are nearly as good as new text, and later ones teach less and less (Muennighoff et al. 2023, arXiv:2305.16264),
so more of them are refused unless they are allowed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from course_lib.data.corpora import NAMED, no_corpus, read_corpus
from course_lib.data.generators import instruction_set
from course_lib.data.generators.pocket_texts import TEXTS, pocket_texts
from course_lib.data.sources import style_corpus
from course_lib.data.tokenizers import Tokenizer
from course_lib.errors import CourseError

KEEPERS_LOG, INSTRUCTIONS = "keepers_log", "instructions"
CARRIED = (*TEXTS, KEEPERS_LOG, INSTRUCTIONS)  # what needs no file and no network
PARTS = ("train", "development", "held_out")
SPLITS = {"train": "train", "development": "validation", "held_out": "test"}
TEST_SHARE = 0.2  # of a single text: the last fifth is held out, half of it for each of the two parts


@dataclass(frozen=True)
class DataConfig:
    """What is read, how much of it, in which order, and how often.

    Attributes:
        dataset_mix: the share of the tokens that each corpus gets. A corpus is one of `CARRIED`, "wikitext2",
            "tinystories", a text file, or a folder with wiki.train.raw.
        tokens_target: how many tokens there are in all.
        shuffle: mix the corpora and draw a new order in each pass. Otherwise one corpus follows the other.
        max_epochs: the most passes over a corpus.
        allow_more_epochs: read a corpus more often than that where its share needs it.

    Raises:
        CourseError: a share, the target or the number of passes makes no sense, or there is no such corpus.
    """

    dataset_mix: Mapping[str, float]
    tokens_target: int
    shuffle: bool = True
    max_epochs: float = 4.0
    allow_more_epochs: bool = False

    def __post_init__(self) -> None:
        if not self.dataset_mix:
            raise CourseError("dataset_mix names no corpus: give at least one, such as { keepers_log = 1.0 }.")
        for name, share in self.dataset_mix.items():
            if not isinstance(share, int | float) or not share > 0:
                raise CourseError(f"dataset_mix gives {name} the share {share}. A share is above 0: leave it out.")
            check_corpus(name)
        if self.tokens_target < 1:
            raise CourseError(f"tokens_target={self.tokens_target} is not possible. It has to be at least 1.")
        if not self.max_epochs > 0:
            raise CourseError(f"max_epochs={self.max_epochs} is not possible. It has to be above 0.")

    def tokens_of(self, name: str) -> int:
        """How many tokens one corpus gives."""
        return round(self.tokens_target * self.dataset_mix[name] / sum(self.dataset_mix.values()))


@dataclass
class Mixture:
    """What was read.

    Attributes:
        ids: all tokens in reading order, each document with its end token.
        tokens: of each corpus.
        epochs: passes over each corpus that has an end.
    """

    ids: np.ndarray
    tokens: dict[str, int] = field(default_factory=dict)
    epochs: dict[str, float] = field(default_factory=dict)

    def describe(self) -> list[str]:
        """One line for each corpus: its tokens, and how often it was read."""
        lines = []
        for name, count in self.tokens.items():
            passes = f", {self.epochs[name]:.1f} passes" if name in self.epochs else ", generated"
            lines.append(f"{name}: {count:,} tokens ({count / len(self.ids):.1%}{passes})")
        return lines


def check_corpus(name: str) -> None:
    """CourseError where there is no such corpus. Nothing is read or downloaded."""
    if name not in CARRIED and name not in NAMED and not Path(name).expanduser().exists():
        raise no_corpus(name, CARRIED)


def corpus_documents(name: str, part: str = "train", seed: int = 0) -> Iterator[str] | list[str]:
    """The documents of a corpus.

    Args:
        name: see `DataConfig`.
        part: "train", "development" or "held_out". A single text is cut between paragraphs.
        seed: of a generated text.

    Returns:
        A list, or an iterator without end for a generated text.

    Raises:
        CourseError: there is no such corpus or part.
    """
    if part not in PARTS:
        raise CourseError(f"part={part!r} is unknown. Choose one of {', '.join(PARTS)}.")
    if name in TEXTS:
        return pocket_texts(name, part, seed)
    if name == INSTRUCTIONS:
        items = instruction_set("train" if part == "train" else "held_out", seed=seed)
        return ["\n".join(filter(None, (each["instruction"], each["input"], each["output"]))) for each in items]
    if name == KEEPERS_LOG:
        return _part_of_text(style_corpus(), part)
    path = Path(name).expanduser()
    if path.is_file():
        return _part_of_text(read_corpus(path)[0], part)
    check_corpus(name)
    return read_corpus(name, SPLITS[part])


def _part_of_text(text: str, part: str) -> list[str]:
    """The paragraphs of one part of a single text."""
    paragraphs = [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]
    held = max(2, round(TEST_SHARE * len(paragraphs)))
    if len(paragraphs) <= held:
        raise CourseError(f"A text of {len(paragraphs)} paragraphs is too short to hold two parts of it out.")
    first, middle = len(paragraphs) - held, len(paragraphs) - held // 2
    return {"train": paragraphs[:first], "development": paragraphs[first:middle], "held_out": paragraphs[middle:]}[part]


def read_mixture(config: DataConfig, tokenizer: Tokenizer, end: int, part: str = "train", seed: int = 0) -> Mixture:
    """Read a mix up to its target of tokens.

    Args:
        config: what to read.
        tokenizer: makes ids.
        end: the token that ends a document.
        part: see `corpus_documents`. Of a part that is held out a corpus gives what it has, at most once.
        seed: decides what is generated, and the order.

    Returns:
        At most `config.tokens_target` tokens.

    Raises:
        CourseError: a corpus would have to be read too often, or is empty.
    """
    streams, epochs = {}, {}
    for name in config.dataset_mix:
        documents, wanted = corpus_documents(name, part, seed), config.tokens_of(name)
        if isinstance(documents, list):
            encoded = [[*tokenizer(document)["input_ids"], end] for document in documents]
            passes = _passes(name, encoded, wanted, config, part)
            epochs[name] = passes
            streams[name] = _limited(_repeated(encoded, config.shuffle, seed), min(wanted, _total(encoded, passes)))
        else:
            streams[name] = _limited(([*tokenizer(text)["input_ids"], end] for text in documents), wanted)
    read = _mixed(streams, config) if config.shuffle else _in_turn(streams)
    tokens, ids = dict.fromkeys(streams, 0), []
    for name, document in read:
        tokens[name] += len(document)
        ids.extend(document)
    return Mixture(np.array(ids, dtype=np.int64), tokens, epochs)


def _passes(name: str, encoded: list[list[int]], wanted: int, config: DataConfig, part: str) -> float:
    """How often a corpus is read; CourseError where that is too often."""
    held = sum(map(len, encoded))
    if not held:
        raise CourseError(f"{name} has no text to read: take it out of dataset_mix.")
    passes = wanted / held
    if part != "train":
        return min(1.0, passes)
    if passes > config.max_epochs and not config.allow_more_epochs:
        raise CourseError(
            f"{name} has {held:,} tokens, and its share of tokens_target is {wanted:,}: that would be {passes:.1f} "
            f"passes, and max_epochs is {config.max_epochs:g}. Lower its share in dataset_mix or tokens_target, raise "
            "max_epochs, or set allow_more_epochs = true."
        )
    return passes


def _total(encoded: list[list[int]], passes: float) -> int:
    return round(passes * sum(map(len, encoded)))


def _repeated(documents: list[list[int]], shuffle: bool, seed: int) -> Iterator[list[int]]:
    """All documents again and again, each pass in a new order."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(documents)) if shuffle else range(len(documents))
        for number in order:
            yield documents[number]


def _limited(documents: Iterator[list[int]], wanted: int) -> Iterator[list[int]]:
    """Documents up to a number of tokens; the last one is cut."""
    for document in documents:
        if wanted <= 0:
            return
        yield document[:wanted]
        wanted -= len(document)


def _mixed(streams: Mapping[str, Iterator[list[int]]], config: DataConfig) -> Iterator[tuple[str, list[int]]]:
    """Documents of all corpora, always from the one that is furthest behind its share."""
    given = dict.fromkeys(streams, 0)
    open_streams = dict(streams)
    while open_streams:
        name = min(open_streams, key=lambda each: given[each] / config.tokens_of(each))
        document = next(open_streams[name], None)
        if document is None:
            del open_streams[name]
        else:
            given[name] += len(document)
            yield name, document


def _in_turn(streams: Mapping[str, Iterator[list[int]]]) -> Iterator[tuple[str, list[int]]]:
    for name, stream in streams.items():
        for document in stream:
            yield name, document
