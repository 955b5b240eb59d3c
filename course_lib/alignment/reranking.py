"""Choosing one of N answers, by a verifier or by majority, and the KL divergence that choosing costs.

The first of N answers to a problem is what the model says on its own. The majority vote takes the final answer on which
most of them agree (Wang et al. 2022, arXiv:2203.11171). Best-of-N takes the answer with the highest score (Cobbe et al.
2021, arXiv:2110.14168). The weighted vote takes the final answer with the largest sum of scores (Li et al. 2022,
arXiv:2206.02336). None of them can be better than pass@N, which counts a problem as solved if any answer is right.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import NormalDist

import numpy as np

from course_lib.data.generators import final_number
from course_lib.errors import CourseError
from course_lib.evaluation.pass_at_k import pass_at_k
from course_lib.models.verifier import Verifier

FinalAnswer = Callable[[str], str | None]


@dataclass(frozen=True)
class Samples:
    """The answers of a model to one problem.

    Attributes:
        problem: the text of the problem.
        answers: the answers in the order in which they were drawn; an answer may be empty.
        correct: whether each answer is right; () where nobody knows.
    """

    problem: str
    answers: tuple[str, ...]
    correct: tuple[bool, ...] = ()

    def first(self, count: int) -> "Samples":
        """The same problem with only its first `count` answers."""
        return Samples(self.problem, self.answers[:count], self.correct[:count])


def majority_vote(answers: Sequence[str], final: FinalAnswer = final_number) -> int:
    """Find the answer that represents the most frequent final answer.

    Args:
        answers: at least one answer.
        final: reads the final answer from a text; a text without one (None) does not vote.

    Returns:
        The number of the first answer with the winning final answer. Of two equally frequent final answers, the
        one that comes first wins. The number is 0 if no answer votes.

    Raises:
        CourseError: the list of answers is empty.

    Example:
        >>> majority_vote(["The answer is 7.", "The answer is 5.", "So it is 5."])
        1
    """
    return weighted_vote(answers, [1.0] * len(answers), final)


def weighted_vote(answers: Sequence[str], scores: Sequence[float], final: FinalAnswer = final_number) -> int:
    """Find the best answer among those with the final answer whose scores have the largest sum.

    Args:
        answers: at least one answer.
        scores: one score for each answer, at least 0.
        final: see `majority_vote`.

    Returns:
        Of the answers with the winning final answer, the number of the one with the highest score; see
        `majority_vote`.

    Raises:
        CourseError: the list of answers is empty, or the number of scores is another one.

    Example:
        >>> weighted_vote(["So it is 7.", "So it is 5.", "It is 5."], [0.8, 0.3, 0.6])  # 0.8 for 7, and 0.9 for 5
        2
    """
    _check(answers, scores)
    votes: dict[str, float] = defaultdict(float)
    finals = [final(answer) for answer in answers]
    for found, score in zip(finals, scores, strict=True):
        if found is not None:
            votes[found] += score
    if not votes:
        return best_of(scores)
    winner = max(votes, key=lambda found: votes[found])  # the first of equals: dictionaries keep their order
    voters = [number for number, found in enumerate(finals) if found == winner]
    return max(voters, key=lambda number: scores[number])


def best_of(scores: Sequence[float]) -> int:
    """The number of the highest score, the first of equal ones. CourseError if there is no score."""
    if not len(scores):
        raise CourseError("There is no answer to choose from: give at least one.")
    return max(range(len(scores)), key=lambda number: scores[number])


def _check(answers: Sequence[str], scores: Sequence[float]) -> None:
    if not len(answers):
        raise CourseError("There is no answer to choose from: give at least one.")
    if len(scores) != len(answers):
        raise CourseError(f"{len(scores)} scores and {len(answers)} answers: give one score for each.")


def rerank(verifier: Verifier, problem: str, answers: Sequence[str]) -> list[tuple[float, str]]:
    """The answers by score, the best first.

    Args:
        verifier: the verifier.
        problem: the text of the problem.
        answers: the answers; an empty one has the score 0.

    Returns:
        (score, answer) for each.

    Raises:
        CourseError: the list of answers is empty, or the problem is empty.
    """
    if not len(answers):
        raise CourseError("There is no answer to choose from: give at least one.")
    scores = score_samples(verifier, [Samples(problem, tuple(answers))])[0]
    order = sorted(range(len(answers)), key=lambda number: -scores[number])  # stable: equals keep their order
    return [(scores[number], answers[number]) for number in order]


def score_samples(verifier: Verifier, groups: Sequence[Samples], batch_size: int = 64) -> list[list[float]]:
    """Score every answer. An empty answer, which a verifier refuses, has the score 0.

    Args:
        verifier: the verifier.
        groups: the answers to each problem.
        batch_size: how many answers one forward pass takes.

    Returns:
        A list of scores for each problem.
    """
    pairs = [(each.problem, answer) for each in groups for answer in each.answers if answer.strip()]
    scores = iter(verifier.score_batch(pairs, batch_size))
    return [[next(scores) if answer.strip() else 0.0 for answer in each.answers] for each in groups]


@dataclass(frozen=True)
class Share:
    """A share of problems that were solved, with its 95 % interval (Wilson 1927).

    Attributes:
        name: the way of choosing.
        solved: the number of problems whose chosen answer is right.
        problems: the number of all problems.

    Example:
        >>> print(Share("best of 8", 45, 60))
        75.0% (62.8% to 84.2%)
    """

    name: str
    solved: float
    problems: int

    @property
    def value(self) -> float:
        """The share."""
        return self.solved / self.problems

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval, which stays between 0 and 1 even if no problem or every problem is solved."""
        z, n, p = NormalDist().inv_cdf(0.975), self.problems, self.value
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} ({low:.1%} to {high:.1%})"


def compare_selections(
    groups: Sequence[Samples],
    scores: Sequence[Sequence[float]] | None = None,
    count: int | None = None,
    final: FinalAnswer = final_number,
) -> list[Share]:
    """Compare how many problems each way of choosing solves, on the same answers.

    Args:
        groups: the answers to each problem, and whether they are right.
        scores: the scores of a verifier, from `score_samples`; None compares only the ways that need no scores.
        count: how many answers to each problem are used; None for as many as every problem has.
        final: see `majority_vote`.

    Returns:
        The shares "first", "majority" and "pass@N", and with scores also "verifier" and "weighted vote".

    Raises:
        CourseError: there is no problem, one has too few answers, or it is not known which are right.
    """
    if not groups:
        raise CourseError("There is no problem to choose answers for: give at least one.")
    fewest = min(len(each.answers) for each in groups)
    count = fewest if count is None else count
    if not 1 <= count <= fewest:
        raise CourseError(
            f"The first {count} answers are not there: a problem has {fewest}. Give a count of 1 to {fewest}, or "
            "sample more answers."
        )
    if any(len(each.correct) != len(each.answers) for each in groups):
        raise CourseError("It is not known which answers are right: give 'correct' with the samples.")
    solved: dict[str, float] = defaultdict(float)
    for number, whole in enumerate(groups):
        each = whole.first(count)
        solved["first"] += each.correct[0]
        solved["majority"] += each.correct[majority_vote(each.answers, final)]
        if scores is not None:
            own = list(scores[number])[:count]
            solved["verifier"] += each.correct[best_of(own)]
            solved["weighted vote"] += each.correct[weighted_vote(each.answers, own, final)]
        solved[f"pass@{count}"] += pass_at_k(count, sum(each.correct), count)
    return [Share(name, value, len(groups)) for name, value in solved.items()]


# --- what choosing costs ---


def best_of_n_kl_bound(n: int) -> float:
    """KL(best-of-N || policy) in nats, ln N - (N - 1) / N, if all scores differ and every answer is unlikely.

    For a policy with few different answers it is an upper bound (Beirami et al. 2024, arXiv:2401.01879).

    Args:
        n: how many answers are drawn.

    Returns:
        The divergence, or the bound, in nats.

    Raises:
        CourseError: n is below 1.

    Example:
        >>> round(best_of_n_kl_bound(8), 3)
        1.204
    """
    if n < 1:
        raise CourseError(f"N={n} is not possible: at least one answer is drawn.")
    return math.log(n) - (n - 1) / n


def best_of_n_policy(chances: Sequence[float], scores: Sequence[float], n: int) -> np.ndarray:
    """The distribution of the best of N answers of a policy with finitely many answers.

    The best score is at most s with probability F(s)^N, where F(s) is the probability that one answer has a score of at
    most s. Among equally good answers the one that was drawn first is taken, so they share their probability in
    proportion to their own.

    Args:
        chances: the probability of each answer; they add up to 1.
        scores: the score of each answer.
        n: how many answers are drawn.

    Returns:
        The probability that each answer is chosen.

    Raises:
        CourseError: the probabilities are not a distribution, or the number of scores is another one.

    Example:
        >>> best_of_n_policy([0.5, 0.5], scores=[0.1, 0.9], n=2)
        array([0.25, 0.75])
    """
    p, s = np.asarray(chances, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if p.ndim != 1 or p.shape != s.shape or (p < 0).any() or abs(p.sum() - 1) > 1e-6:
        raise CourseError("A policy is one chance for each answer, adding up to 1, and a score for each.")
    best_of_n_kl_bound(n)  # N is possible
    chosen = np.zeros_like(p)
    below = 0.0
    for score in np.unique(s):
        equal = s == score
        here = p[equal].sum()
        if here > 0:
            chosen[equal] = p[equal] / here * ((below + here) ** n - below**n)
        below += here
    return chosen


def kl_divergence(chosen: Sequence[float] | np.ndarray, policy: Sequence[float] | np.ndarray) -> float:
    """KL(chosen || policy) = sum q log(q / p), in nats.

    Args:
        chosen: the distribution q.
        policy: the distribution p, above 0 wherever q is.

    Returns:
        The divergence, at least 0.
    """
    q, p = np.asarray(chosen, dtype=np.float64), np.asarray(policy, dtype=np.float64)
    likely = q > 0
    return max(0.0, float(np.sum(q[likely] * np.log(q[likely] / p[likely]))))  # rounding may give -1e-17


def sampled_best_of_n_kl(
    chances: Sequence[float], scores: Sequence[float], n: int, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Estimate KL(best-of-N || policy) by simulation: draw N answers, take the best, and average log(q / p) over it.

    Args:
        chances: the probability of each answer.
        scores: the score of each answer.
        n: how many answers are drawn.
        draws: how often the best of N is taken.
        seed: the seed of the draws.

    Returns:
        The mean and its standard error, in nats.
    """
    q, p = best_of_n_policy(chances, scores, n), np.asarray(chances, dtype=np.float64)
    rng, answers, values = Random(seed), range(len(p)), []
    for _ in range(draws):
        drawn = rng.choices(answers, p.tolist(), k=n)
        best = drawn[best_of([scores[each] for each in drawn])]
        values.append(math.log(q[best] / p[best]))
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(draws))
