"""Which students wrote the same, whatever they called it: a list of pairs to look at, and no verdict.

Each answer becomes its tokens without comments and layout, in which all names of its own, all numbers and all texts are
alike. Eight tokens in a row are a shingle. What the release gives does not count, and what much of the class wrote
counts little: two good answers to a small question look alike. (Schleimer, Wilkerson and Aiken, "Winnowing", 2003, has
the shingles; the weights are those of term frequencies in text search.)
"""

import ast
import builtins
import io
import keyword
import re
import tokenize
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

LENGTH = 8  # tokens of a shingle
LONGEST = 200_000  # characters of an answer that are looked at
WORD = re.compile(r"\w+|[^\w\s]")
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
KNOWN = {*keyword.kwlist, *dir(builtins)}

Shingle = tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Two students.

    share: of what either wrote, the weighted part that both did; 1 where they are alike. parts: the answers that are
    the same token for token, and that the fewest of the class have.
    """

    one: str
    other: str
    share: float
    parts: tuple[str, ...] = ()


def similar_pairs(
    answers: Mapping[str, Mapping[str, str]],
    given: Mapping[str, str],
    least: float = 0.5,
    tell: Callable[[int, int], object] = lambda done, total: None,
) -> list[Pair]:
    """The pairs of students whose answers are similar, the most similar first.

    Args:
        answers: By student, and by grade id.
        given: What the release has in the same cells.
        least: The share from which on a pair is listed.
        tell: Called with how many students are read, and how many there are.

    Returns:
        The pairs that share at least `least`.
    """
    students = sorted(answers)
    unwritten = {part: _normal(source) for part, source in given.items()}
    known = {shingle for tokens in unwritten.values() for shingle in _shingles(tokens)}
    texts: list[dict[str, list[str]]] = []
    for number, student in enumerate(students, start=1):
        written = {part: _normal(source) for part, source in answers[student].items()}
        texts.append({part: tokens for part, tokens in written.items() if tokens != unwritten.get(part)})
        tell(number, len(students))
    found = [{shingle for tokens in text.values() for shingle in _shingles(tokens)} - known for text in texts]
    shares = _shares(found)
    pairs = []
    for i, j in zip(*np.nonzero(np.triu(shares >= least, k=1)), strict=True):
        same = [part for part, tokens in texts[i].items() if texts[j].get(part) == tokens]
        rare = [part for part in same if 2 * sum(t.get(part) == texts[i][part] for t in texts) <= max(4, len(students))]
        pairs.append(Pair(students[i], students[j], float(shares[i, j]), tuple(rare)))
    return sorted(pairs, key=lambda pair: (-pair.share, pair.one, pair.other))


def _shares(found: list[set[Shingle]]) -> np.ndarray:
    """The weighted Jaccard index of each pair of sets, (students, students)."""
    columns = {shingle: number for number, shingle in enumerate(sorted(set().union(*found)))} if found else {}
    has = np.zeros((len(found), len(columns)), dtype=np.float32)  # (students, shingles)
    for row, shingles in enumerate(found):
        has[row, [columns[shingle] for shingle in shingles]] = 1.0
    weights = np.log((len(found) + 1) / np.maximum(has.sum(axis=0), 1.0))  # (shingles,)
    common = (has * weights) @ has.T  # (students, students)
    own = np.diag(common)
    either = own[:, None] + own[None, :] - common
    return np.divide(common, either, out=np.zeros_like(common), where=either > 0)


def _shingles(tokens: list[str]) -> set[Shingle]:
    """All runs of so many tokens; a shorter answer is one as a whole."""
    starts = range(max(1, len(tokens) - LENGTH + 1)) if tokens else []
    return {tuple(tokens[start : start + LENGTH]) for start in starts}


def _normal(source: str) -> list[str]:
    """The tokens of an answer: of Python where it is Python, else its words."""
    source = source[:LONGEST]
    try:
        ast.parse(source)
        found = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError, ValueError, RecursionError, MemoryError):  # it is not Python
        return [word.lower() for word in WORD.findall(source)]
    return [_kind(token, before) for before, token in zip([None, *found], found) if token.type not in LAYOUT]  # noqa: B905


def _kind(token: tokenize.TokenInfo, before: tokenize.TokenInfo | None) -> str:
    if token.type == tokenize.NUMBER:
        return "0"
    if token.type == tokenize.STRING:
        return "''"
    attribute = before is not None and before.string == "."  # a library's, which nobody can rename
    if token.type == tokenize.NAME and token.string not in KNOWN and not attribute:
        return "name"
    return token.string
