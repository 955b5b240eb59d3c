"""Preference pairs from a model's own answers: sample N answers to each problem, and let a program check them.

A pair consists of a right answer and a wrong answer of the same model to the same problem. A problem whose answers are
all right or all wrong gives no pair; such problems are counted and named.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from torch import nn

from course_lib.alignment.reranking import Samples
from course_lib.alignment.sources import records_of_split
from course_lib.data.formats import check_format
from course_lib.data.generators import check_answer, check_instruction, instruction_set, word_problems
from course_lib.data.generators.judged import same_number
from course_lib.data.records import ask
from course_lib.data.templates import InstructionFormatter, chat_text
from course_lib.data.tokenizers import ModelTokenizer
from course_lib.errors import CourseError, first_line
from course_lib.files import write_whole
from course_lib.inference import generate, prompt_ids
from course_lib.inference.stopping import end_tokens
from course_lib.suggestions import did_you_mean

NAMED = 3  # problems that are named where a kind of them is counted


@dataclass(frozen=True)
class CheckedProblem:
    """A problem whose answers a program can check.

    Attributes:
        prompt: the text of the problem.
        is_right: a function that says whether a response is right.
        source: where the problem comes from.
    """

    prompt: str
    is_right: Callable[[str], bool]
    source: str


@dataclass(frozen=True)
class SamplingPlan:
    """All settings that decide which answers are sampled. The first line of a file of samples records them.

    Attributes:
        model: the name or the folder of the model.
        adapter: the folder of an adapter, or "".
        problems: the name of a generated set, or a file of records.
        split: the split of a generated set or of a folder: "train" or "held_out".
        limit: how many problems are used; None for all of them.
        samples: the number of answers to each problem.
        temperature: the temperature of the draws.
        top_p: the probability to draw from, see `SamplingSettings`.
        max_new_tokens: the largest number of tokens of an answer.
        template: "chat" or "instruction".
        seed: the seed of the problems and of the draws.

    Raises:
        CourseError: a number is not possible.
    """

    model: str
    problems: str
    adapter: str = ""
    split: str = "train"
    limit: int | None = None
    samples: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    template: str = "chat"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise CourseError(f"samples={self.samples}: a pair needs at least 2 answers to a problem.")
        if not 0 < self.temperature < math.inf:
            raise CourseError(
                f"temperature={self.temperature} is not possible: it is above 0, for without chance all answers to a "
                "problem are the same. Give 0.7 or 1."
            )
        if not 0 < self.top_p <= 1:
            raise CourseError(f"top_p={self.top_p} is not possible: it is above 0 and at most 1, which takes all.")
        if self.max_new_tokens < 1 or (self.limit is not None and self.limit < 1):
            raise CourseError(f"max_new_tokens={self.max_new_tokens}, limit={self.limit}: both are at least 1.")
        if self.template not in ("chat", "instruction"):
            raise CourseError(f"template={self.template!r}: choose chat or instruction.")


# --- problems ---


def _solves(item: dict, response: str) -> bool:
    return check_answer(item, response) == 1.0


def _word_problems(split: str, size: int | None, seed: int) -> list[CheckedProblem]:
    return [
        CheckedProblem(item["question"], partial(_solves, item), f"{split}:{number}")
        for number, item in enumerate(word_problems(split, size, seed))
    ]


def _instructions(split: str, size: int | None, seed: int) -> list[CheckedProblem]:
    return [
        CheckedProblem(
            "\n\n".join(filter(None, (item["instruction"], item["input"]))),
            partial(check_instruction, item),
            f"{split}:{number}",
        )
        for number, item in enumerate(instruction_set(split, size, seed))
    ]


PROBLEM_SETS: dict[str, Callable[[str, int | None, int], list[CheckedProblem]]] = {
    "word_problems": _word_problems,
    "instructions": _instructions,
}


def check_problem_source(name: str) -> None:
    """Raise CourseError if `name` is neither a generated set nor a file or folder. This is quick."""
    if name not in PROBLEM_SETS and not Path(name).expanduser().exists():
        raise CourseError(
            f"--problems {name}: there is no such file or folder, and no generated set of that name "
            f"({', '.join(PROBLEM_SETS)}).{did_you_mean(name, PROBLEM_SETS)}"
        )


def read_problems(plan: SamplingPlan, format: str = "auto") -> list[CheckedProblem]:
    """Read the problems of a plan.

    Args:
        plan: the plan, which names the problems.
        format: the format of a file of records, see `read_records`.

    Returns:
        The problems, at least one.

    Raises:
        CourseError: the source does not exist, or its records have no answer that a program can check.
    """
    check_problem_source(plan.problems)
    if plan.problems in PROBLEM_SETS:
        return PROBLEM_SETS[plan.problems](plan.split, plan.limit, plan.seed)
    check_format(format)
    records = records_of_split(Path(plan.problems).expanduser(), plan.split, format)[: plan.limit]
    with_answer = [record for record in records if record.answer is not None and len(record.messages) == 2]
    if not with_answer:
        raise CourseError(
            f"--problems {plan.problems} has no record with an answer that a program can check, as GSM8K's have after "
            "'####'."
        )
    return [
        CheckedProblem(
            record.messages[0]["content"],
            partial(same_number, record.answer or ""),
            record.source,
        )
        for record in with_answer
    ]


# --- answers ---


def problem_ids(tokenizer: ModelTokenizer, prompt: str, template: str) -> list[int]:
    """The ids of a problem up to where the answer begins, as `course sft` and `course dpo` write them.

    Args:
        tokenizer: the model's.
        prompt: the problem.
        template: "chat" or "instruction".

    Returns:
        The ids.
    """
    if template == "chat":
        return prompt_ids(tokenizer, chat_text(tokenizer, [ask(prompt)], True), from_template=True)
    return prompt_ids(tokenizer, InstructionFormatter().prompt(prompt))


def sample_answers(
    model: nn.Module,
    tokenizer: ModelTokenizer,
    prompt: str,
    plan: SamplingPlan,
) -> list[str]:
    """Sample the answers of a model to one problem. The draws depend only on the plan's seed and on the problem.

    Args:
        model: a causal language model.
        tokenizer: the tokenizer of the model.
        prompt: the problem.
        plan: the number of answers, and how they are drawn.

    Returns:
        As many texts as the plan says; a text may be empty.
    """
    ids = problem_ids(tokenizer, prompt, plan.template)
    own_seed = int.from_bytes(sha256(f"{plan.seed} {prompt}".encode()).digest()[:6], "big")
    found = generate(
        model,
        [ids] * plan.samples,
        plan.max_new_tokens,
        temperature=plan.temperature,
        top_p=plan.top_p,
        eos_token_id=end_tokens(model, tokenizer),
        seed=own_seed,
    )
    return [tokenizer.decode(tokens).strip() for tokens in found]


class SampleFile:
    """A file of samples with one line for each problem, from which an interrupted run continues.

    The first line says how the samples are drawn, {"settings": ...}. The others are {"problem", "answers", "correct"},
    which `read_judged` reads.

    Args:
        path: the file.
        plan: the plan of the run.
    """

    def __init__(self, path: Path, plan: SamplingPlan):
        self.path, self.plan = path, plan

    def begin(self) -> None:
        """Write the first line."""
        write_whole(self.path, json.dumps({"settings": asdict(self.plan)}) + "\n")

    def go_on(self, problems: Sequence[CheckedProblem]) -> list[Samples]:
        """Read the samples of an earlier run, and remove a last line that is incomplete.

        Args:
            problems: the problems of this run; those of the file have to be the first of them.

        Returns:
            The samples, in the order of the problems.

        Raises:
            CourseError: the file is missing, or was begun with another plan.
        """
        if not self.path.is_file():
            raise CourseError(f"There is nothing to resume: {self.path} is not there. Leave --resume out.")
        whole = [line for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]
        try:
            (begun, *rows) = [json.loads(line) for line in whole]
            found = [Samples(row["problem"], tuple(row["answers"]), tuple(row["correct"])) for row in rows]
            settings = begun["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise CourseError(f"{self.path} is not a file of samples ({first_line(error)}).") from error
        for name, value in asdict(self.plan).items():
            if settings.get(name) != value:
                raise CourseError(
                    f"{self.path} was begun with {name} {settings.get(name)!r}, not {value!r}: give the same, or "
                    "another --output."
                )
        if [each.problem for each in found] != [each.prompt for each in problems[: len(found)]]:
            raise CourseError(f"{self.path} has the answers to other problems: choose another --output.")
        write_whole(self.path, "".join(whole))
        return found

    def add(self, samples: Samples) -> None:
        """Append the samples of one problem."""
        row = {"problem": samples.problem, "answers": list(samples.answers), "correct": list(samples.correct)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def sample_all(
    model: nn.Module,
    tokenizer: ModelTokenizer,
    problems: Sequence[CheckedProblem],
    plan: SamplingPlan,
    file: SampleFile | None = None,
    done: Sequence[Samples] = (),
    progress: Callable[[Iterable[CheckedProblem]], Iterable[CheckedProblem]] = iter,
) -> list[Samples]:
    """Sample and judge the answers to every problem.

    Args:
        model: a causal language model.
        tokenizer: the tokenizer of the model.
        problems: the problems.
        plan: how answers are drawn.
        file: the file to which the samples of each problem are added at once; None for no file.
        done: the samples of the first problems, from `SampleFile.go_on`.
        progress: wraps the remaining problems, for a progress bar.

    Returns:
        The samples of each problem.
    """
    found = list(done)
    for problem in progress(problems[len(found) :]):
        answers = sample_answers(model, tokenizer, problem.prompt, plan)
        samples = Samples(problem.prompt, tuple(answers), tuple(problem.is_right(answer) for answer in answers))
        if file is not None:
            file.add(samples)
        found.append(samples)
    return found


# --- pairs ---


@dataclass
class SampledPairs:
    """Preference pairs, and the problems that gave none.

    Attributes:
        rows: {"prompt", "chosen", "rejected"}, as `course dpo` and TRL read them.
        without: the sources of problems without a pair, by reason.
        right: the share of all answers that are right.
    """

    rows: list[dict[str, str]] = field(default_factory=list)
    without: dict[str, list[str]] = field(default_factory=dict)
    right: float = 0.0

    def report(self) -> list[str]:
        """The result, in lines of text."""
        lines = [f"{len(self.rows):,} pairs; {self.right:.1%} of the answers are right"]
        for reason, names in self.without.items():
            more = " and others" if len(names) > NAMED else ""
            lines.append(f"problems without a pair: {len(names):,} ({reason}): {', '.join(names[:NAMED])}{more}")
        return lines

    def write(self, path: Path) -> None:
        """Write the pairs as JSON Lines. The file is complete, or it is not written."""
        write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows))


def make_pairs(
    groups: Sequence[Samples], sources: Sequence[str], pairs_per_problem: int = 1, seed: int = 0
) -> SampledPairs:
    """Pair a right answer with a wrong one, for every problem that has both.

    Args:
        groups: the samples of each problem.
        sources: the name of each problem.
        pairs_per_problem: the largest number of pairs of a problem; no two of them share an answer.
        seed: the seed that decides which answers are paired.

    Returns:
        The pairs, and the problems without one.

    Raises:
        CourseError: pairs_per_problem is below 1.

    Example:
        >>> groups = [Samples("1 + 1", ("2", "3"), (True, False)), Samples("2 + 2", ("4", "4"), (True, True))]
        >>> made = make_pairs(groups, sources=["first", "second"])
        >>> made.rows[0]["chosen"], made.rows[0]["rejected"], made.without
        ('2', '3', {'no wrong answer': ['second']})
    """
    if pairs_per_problem < 1:
        raise CourseError(f"pairs_per_problem={pairs_per_problem} is not possible: it is at least 1.")
    made, answers, right_ones = SampledPairs(), 0, 0
    for samples, source in zip(groups, sources, strict=True):
        answers, right_ones = answers + len(samples.correct), right_ones + sum(samples.correct)
        right, wrong = _by_verdict(samples)
        if not (right and wrong):
            reason = "no right answer" if not right else "no wrong answer"
            made.without.setdefault(reason, []).append(source)
            continue
        rng = Random(f"pairs {seed} {samples.problem}")
        rng.shuffle(right)
        rng.shuffle(wrong)
        for chosen, rejected in list(zip(right, wrong, strict=False))[:pairs_per_problem]:
            made.rows.append({"prompt": samples.problem, "chosen": chosen, "rejected": rejected})
    made.right = right_ones / answers if answers else 0.0
    return made


def _by_verdict(samples: Samples) -> tuple[list[str], list[str]]:
    """The right and the wrong answers, each text once. An empty answer is wrong and gives no pair: it has no tokens."""
    right: dict[str, Any] = {}
    wrong: dict[str, Any] = {}
    for answer, correct in zip(samples.answers, samples.correct, strict=True):
        if answer.strip():
            (right if correct else wrong)[answer] = None
    return list(right), list(wrong)
