"""Answers of which it is known whether they are right: what a verifier learns from.

Three layouts of rows are read:

- one answer in a row: {"problem", "answer", "correct"}, also under `NAMES`;
- several answers in a row: {"problem", "answers": [...], "correct": [...]}, as `course data make-preferences` keeps its
  samples;
- OpenAI's example_model_solutions.jsonl (Cobbe et al. 2021, arXiv:2110.14168): {"question", "ground_truth"} and for
  each model {"solution", "is_correct"}.

A final answer that stands on a line "A: 18" is written as GSM8K's "#### 18", and calculator marks such as
``<<16-3=13>>`` are taken out, so that answers of all sources look alike.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from course_lib.data.parts import part_of_row
from course_lib.data.records import Malformed
from course_lib.data.rows import file_rows
from course_lib.errors import CourseError
from course_lib.suggestions import similar_paths

NAMES = {
    "problem": ("problem", "question", "prompt", "instruction"),
    "answer": ("answer", "response", "completion", "solution"),
    "correct": ("correct", "is_correct", "label"),
}
WORDS = {"true": True, "1": True, "false": False, "0": False}  # CSV has texts alone
SOME_PROBLEMS = 3


@dataclass(frozen=True)
class Judged:
    """One answer to one problem.

    Attributes:
        problem: what was asked.
        answer: what was answered.
        correct: whether it is right.
        author: who wrote it: a model's name, "reference", or a kind of mistake.
        source: where it came from ("file:line").
        part: "train", "validation" or "test" where the row says what it is for, as in {"split": "test"}; else "".
    """

    problem: str
    answer: str
    correct: bool
    author: str = ""
    source: str = ""
    part: str = ""


@dataclass
class JudgedReading:
    """What was read.

    Attributes:
        answers: in the order of the rows.
        problems: what was wrong with a row ("file:line: reason").
    """

    answers: list[Judged] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        right = sum(each.correct for each in self.answers)
        asked = len({each.problem for each in self.answers})
        return (
            f"{len(self.answers):,} answers to {asked:,} problems, {right:,} of them right; "
            f"{len(self.problems):,} rows malformed"
        )


def read_judged(path: str | Path, malformed: str = "refuse") -> JudgedReading:
    """The judged answers of a file.

    Args:
        path: .json, .jsonl, .csv, .parquet and their kin, see `file_rows`.
        malformed: "refuse" raises at the first malformed row; "skip" keeps the others and lists it.

    Returns:
        The answers, and an account of malformed rows.

    Raises:
        CourseError: there is no such file, no answer in it, or a row is malformed and malformed is "refuse".
    """
    if malformed not in ("refuse", "skip"):
        raise CourseError(f"malformed={malformed!r}: choose 'refuse' or 'skip'.")
    path = Path(path).expanduser()
    if not path.is_file():
        raise CourseError(f"There is no file {path} of judged answers.{similar_paths(path)}")
    reading = JudgedReading()
    for where, value in file_rows(path):
        try:
            if isinstance(value, Malformed):
                raise value
            part, _ = part_of_row(value)
            reading.answers += [replace(answer, part=part) for answer in _row(value, where)]
        except Malformed as problem:
            if malformed == "refuse":
                raise CourseError(f"{where}: {problem}. (malformed='skip' keeps the other rows.)") from problem
            reading.problems.append(f"{where}: {problem}")
    if not reading.answers:
        raise CourseError(
            f"{path} has no judged answer with text in it; {len(reading.problems):,} of its rows are malformed. Give a "
            "file with answers, see course verifier train --help."
        )
    return reading


def plain_solution(text: str) -> str:
    """A solution without calculator marks, its final answer after "####".

    Args:
        text: of a model or a data set.

    Returns:
        The text without blanks at its ends.
    """
    text = re.sub(r"<<[^<>]*>>", "", text)
    return re.sub(r"^A: ?(?=\S+\s*\Z)", "#### ", text.strip(), flags=re.M)


def _row(row: object, where: str) -> Iterator[Judged]:
    """The judged answers of one row. Raises Malformed."""
    if not isinstance(row, Mapping):
        raise Malformed(f"it is of type {type(row).__name__}, expected an object")
    if "settings" in row and len(row) == 1:
        return  # the first line of a file of samples says how they were drawn
    problem = _text(row, "problem")
    if "ground_truth" in row:
        yield from _by_models(row, problem, where)
    elif isinstance(row.get("answers"), Sequence) and not isinstance(row["answers"], str):
        yield from _several(row, problem, where)
    else:
        correct = _truth(_value(row, "correct"), "correct")
        yield Judged(problem, plain_solution(_text(row, "answer")), correct, str(row.get("author") or ""), where)


def _by_models(row: Mapping[str, Any], problem: str, where: str) -> Iterator[Judged]:
    """The reference and each model's answer."""
    yield Judged(problem, plain_solution(_filled(row["ground_truth"], "ground_truth")), True, "reference", where)
    for author, value in row.items():
        if isinstance(value, Mapping):
            if not {"solution", "is_correct"} <= value.keys():
                raise Malformed(f"{author!r} lacks 'solution' or 'is_correct'")
            if not str(value["solution"] or "").strip():
                continue  # a model that said nothing: there is no answer to judge
            answer = plain_solution(_filled(value["solution"], f"{author}.solution"))
            yield Judged(problem, answer, _truth(value["is_correct"], "is_correct"), author, where)


def _several(row: Mapping[str, Any], problem: str, where: str) -> Iterator[Judged]:
    """The samples of one problem; empty ones are left out, because a verifier cannot read them."""
    correct = _value(row, "correct")
    if not isinstance(correct, Sequence) or isinstance(correct, str) or len(correct) != len(row["answers"]):
        raise Malformed(f"'answers' has {len(row['answers'])} texts, and 'correct' is not a list of as many values")
    for answer, right in zip(row["answers"], correct, strict=True):
        if not isinstance(answer, str):
            raise Malformed(f"'answers' holds a value of type {type(answer).__name__}, expected texts")
        if answer.strip():
            yield Judged(problem, plain_solution(answer), _truth(right, "correct"), str(row.get("author") or ""), where)


def _value(row: Mapping[str, Any], key: str) -> Any:
    for name in NAMES[key]:
        if row.get(name) is not None:
            return row[name]
    raise Malformed(f"there is no {' or '.join(map(repr, NAMES[key]))}")


def _text(row: Mapping[str, Any], key: str) -> str:
    return _filled(_value(row, key), key)


def _filled(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise Malformed(f"{name!r} is of type {type(value).__name__}, expected a text")
    if not value.strip():
        raise Malformed(f"{name!r} is empty")
    return value.strip()


def _truth(value: object, name: str) -> bool:
    known = WORDS.get(str(value).strip().lower())
    if known is None:
        raise Malformed(f"{name!r} is {value!r}, expected true or false")
    return known
