"""Choosing one of N answers: votes, scores, the table of all ways, and the KL of best-of-N against enumeration."""

import math
from itertools import product

import numpy as np
import pytest

from course_lib.alignment.reranking import (
    Samples,
    Share,
    best_of,
    best_of_n_kl_bound,
    best_of_n_policy,
    compare_selections,
    kl_divergence,
    majority_vote,
    rerank,
    sampled_best_of_n_kl,
    score_samples,
    weighted_vote,
)
from course_lib.errors import CourseError


class Length:
    """In place of a verifier: longer answers are better."""

    def score_batch(self, pairs, batch_size=32):
        assert all(problem.strip() and answer.strip() for problem, answer in pairs)
        return [len(answer) / 100 for _, answer in pairs]


def test_the_majority_wins_and_its_first_voter_stands_for_it():
    assert majority_vote(["#### 4", "It is 5.", "so 5", "#### 6"]) == 1
    assert majority_vote(["#### 4", "#### 5"]) == 0  # of equals, the one that comes first
    assert majority_vote(["no idea", "#### 5", ""]) == 1  # who gives no number does not vote
    assert majority_vote(["no idea", "none"]) == 0
    assert majority_vote(["1,050", "5", "#### 1050.0"]) == 0  # one number in two spellings


def test_scores_decide_alone_or_as_weights():
    answers, scores = ["#### 4", "#### 5", "#### 5"], [0.9, 0.4, 0.6]
    assert best_of(scores) == 0
    assert weighted_vote(answers, scores) == 2  # 0.4 + 0.6 > 0.9, and the better of the two stands for them
    assert best_of([0.3, 0.3]) == 0


def test_reranking_puts_the_best_first_and_the_empty_last():
    found = rerank(Length(), "Which?", ["aa", "", "aaaa", "bb"])
    assert found == [(0.04, "aaaa"), (0.02, "aa"), (0.02, "bb"), (0.0, "")]
    groups = [Samples("one", ("a", "")), Samples("two", ("", "bbb"))]
    assert score_samples(Length(), groups) == [[0.01, 0.0], [0.0, 0.03]]


GROUPS = [
    Samples("one", ("#### 1", "#### 2", "#### 2"), (True, False, False)),
    Samples("two", ("#### 1", "#### 2", "#### 2"), (False, True, True)),
    Samples("three", ("#### 1", "#### 2", "#### 3"), (False, False, True)),
    Samples("four", ("#### 1", "#### 2", "#### 3"), (False, False, False)),
]
SCORES = [[0.9, 0.1, 0.2], [0.1, 0.8, 0.2], [0.2, 0.1, 0.3], [0.5, 0.5, 0.5]]


def test_the_table_of_all_ways():
    found = {each.name: each.solved for each in compare_selections(GROUPS, SCORES)}
    assert found == {"first": 1, "majority": 1, "verifier": 3, "weighted vote": 3, "pass@3": 3}
    assert list(found) == ["first", "majority", "verifier", "weighted vote", "pass@3"]
    one = {each.name: each.value for each in compare_selections(GROUPS, SCORES, count=1)}
    assert set(one.values()) == {0.25}  # of one answer there is nothing to choose
    assert [each.name for each in compare_selections(GROUPS)] == ["first", "majority", "pass@3"]


def test_no_way_of_choosing_beats_pass_at_n():
    rng = np.random.default_rng(0)
    for _ in range(20):
        groups = [
            Samples(str(n), tuple(f"#### {x}" for x in rng.integers(0, 3, 5)), tuple((rng.random(5) < 0.3).tolist()))
            for n in range(10)
        ]
        *ways, oracle = compare_selections(groups, rng.random((10, 5)).tolist())
        assert all(way.solved <= oracle.solved for way in ways)


def test_the_interval_of_a_share():
    low, high = Share("first", 10, 20).interval
    assert (low, high) == pytest.approx((0.2993, 0.7007), abs=1e-4)  # Wilson's, worked: 10 of 20
    assert Share("first", 0, 20).interval[0] == 0.0
    assert Share("first", 20, 20).interval == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert str(Share("first", 10, 20)) == "50.0% (29.9% to 70.1%)"


# --- KL ---

CHANCES, VALUES = [0.5, 0.2, 0.2, 0.1], [0.0, 3.0, 1.0, 2.0]


def enumerated(chances, scores, n):
    """Every way to draw N answers, with its chance."""
    chosen = [0.0] * len(chances)
    for drawn in product(range(len(chances)), repeat=n):
        best = drawn[best_of([scores[each] for each in drawn])]
        chosen[best] += math.prod(chances[each] for each in drawn)
    return chosen


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("scores", [VALUES, [1.0, 1.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
def test_the_best_of_n_has_the_chances_that_enumeration_gives(n, scores):
    assert best_of_n_policy(CHANCES, scores, n) == pytest.approx(enumerated(CHANCES, scores, n), abs=1e-12)


def test_the_formula_is_reached_with_many_answers_and_a_bound_with_few():
    for n in (1, 2, 4, 8, 64):
        bound = best_of_n_kl_bound(n)
        few = kl_divergence(best_of_n_policy(CHANCES, VALUES, n), CHANCES)
        assert 0 <= few <= bound + 1e-12
        many = np.full(20_000, 1 / 20_000)
        assert kl_divergence(best_of_n_policy(many, np.arange(20_000), n), many) == pytest.approx(bound, abs=2e-3)
    assert best_of_n_kl_bound(1) == 0.0
    assert best_of_n_kl_bound(4) == pytest.approx(math.log(4) - 0.75)
    # Only right and wrong: choosing cannot move further than to the right ones, -ln of their chance.
    assert kl_divergence(best_of_n_policy(CHANCES, [0, 1, 1, 0], 64), CHANCES) == pytest.approx(-math.log(0.4))


def test_a_simulation_measures_the_same_kl():
    for n in (2, 4):
        exact = kl_divergence(best_of_n_policy(CHANCES, VALUES, n), CHANCES)
        measured, error = sampled_best_of_n_kl(CHANCES, VALUES, n, draws=4000)
        assert error < 0.02
        assert abs(measured - exact) < 4 * error
    assert sampled_best_of_n_kl(CHANCES, VALUES, 2, 50, seed=1) == sampled_best_of_n_kl(CHANCES, VALUES, 2, 50, seed=1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: majority_vote([]), "no answer to choose from"),
        (lambda: weighted_vote(["1"], []), "0 scores and 1 answers"),
        (lambda: best_of([]), "no answer"),
        (lambda: rerank(Length(), "Which?", []), "no answer"),
        (lambda: compare_selections([]), "no problem"),
        (lambda: compare_selections(GROUPS, count=4), "first 4 answers are not there: a problem has 3"),
        (lambda: compare_selections([Samples("one", ("#### 1",))]), "not known which answers are right"),
        (lambda: best_of_n_kl_bound(0), "N=0"),
        (lambda: best_of_n_policy([0.5, 0.4], [0, 1], 2), "adding up to 1"),
    ],
)
def test_what_is_refused(call, said):
    with pytest.raises(CourseError, match=said):
        call()
