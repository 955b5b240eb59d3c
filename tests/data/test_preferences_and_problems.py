"""Preference pairs and word problems: right answers, wrong ones, and the verifiers that tell them apart."""

import math
import re
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec

import pytest

from course_lib.data.generators import (
    check_answer,
    check_preference,
    final_number,
    instruction_set,
    preference_pairs,
    problems,
    word_problems,
)
from course_lib.data.generators.checks import numbers
from course_lib.data.generators.preferences import REJECTIONS
from course_lib.errors import CourseError

needs_gym = pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed")


@pytest.fixture(scope="module")
def items():
    return instruction_set("train") + instruction_set("held_out")


def test_chosen_is_right_and_rejected_fails_where_its_kind_says_so():
    kinds = Counter()
    for pair in preference_pairs("train") + preference_pairs("held_out"):
        kinds[pair["why"]] += 1
        assert set(pair) == {"prompt", "chosen", "rejected", "task", "why", "answer"}
        assert pair["chosen"] != pair["rejected"]
        assert check_preference(pair, pair["chosen"]), pair
        if pair["why"] in ("wrong", "refuses", "dodges", "ignores_format"):
            assert not check_preference(pair, pair["rejected"]), pair
        else:
            assert pair["answer"].split("|")[0] in pair["rejected"]
    assert set(kinds) == set(REJECTIONS)
    assert min(kinds.values()) >= 40


def test_a_fact_held_out_from_instructions_is_held_out_from_preferences():
    def prompts(split):
        return {"\n\n".join(filter(None, (i["instruction"], i["input"]))) for i in instruction_set(split, 3000, 0)}

    for split, other in (("train", "held_out"), ("held_out", "train")):
        pairs = {pair["prompt"] for pair in preference_pairs(split, 1000, 0)}
        assert not pairs & prompts(other)
        assert pairs & prompts(split)


def test_length_alone_does_not_tell_chosen_from_rejected():
    pairs = preference_pairs()
    longer = sum(len(pair["chosen"]) > len(pair["rejected"]) for pair in pairs) / len(pairs)
    assert 0.1 < longer < 0.6


@needs_gym
def test_arithmetic_problems_by_other_means():
    checked = Counter()
    for item in word_problems("train", 600, 2):
        source, found = item["source"].removeprefix("reasoning_gym/"), item["question"]
        if source == "lcm":
            expected = math.lcm(*map(int, re.findall(r"\d+", found)))
        elif source == "products":
            expected = math.prod(map(int, re.findall(r"\d+", found)))
        elif source == "chain_sum":
            expected = sum(int(term.replace(" ", "")) for term in re.findall(r"(?:[-+] )?\d+", found))
        else:
            continue
        checked[source] += 1
        assert item["answer"] == str(expected)
    assert set(checked) == {"lcm", "products", "chain_sum"}


@needs_gym
def test_check_agrees_with_reasoning_gyms_verifier():
    gym = problems._reasoning_gym()
    for name in ("gsm_symbolic", "chain_sum", "basic_arithmetic", "products", "lcm"):
        data = gym.create_dataset(name, seed=5, size=60)
        for entry in data:
            item = {"question": entry["question"], "answer": entry["answer"], "source": f"reasoning_gym/{name}"}
            value = float(entry["answer"])
            for number in (entry["answer"], str(abs(int(value)) + 1), "0", "15", entry["answer"] + "0"):
                verdict = data.score_answer(number, entry) == 1.0
                assert check_answer(item, f"First 7, then 12.\n#### {number}") == float(verdict)
                assert check_answer(item, f"I get 3 + 4 = 7, so the answer is {number}.") == float(verdict)
            assert check_answer(item, "I do not know.") == 0.0


@needs_gym
def test_every_solution_is_right_and_a_changed_number_is_wrong():
    for item in word_problems("train", 400, 1) + word_problems("held_out"):
        assert check_answer(item, item["solution"]) == 1.0
        assert check_answer(item, item["answer"]) == 1.0
        assert item["solution"].endswith(f"#### {item['answer']}")
        assert int(item["answer"]) >= 0 or "gsm" not in item["source"]
        near = int(item["answer"]) + 1
        for wrong in ("", "no idea", f"{item['solution']}1", f"#### {near}", f"{item['answer']} or {near}"):
            assert check_answer(item, wrong) == 0.0


@needs_gym
def test_the_verifiers_blind_spot_for_a_minus_sign_is_closed():
    gym = problems._reasoning_gym()
    item = {"answer": "5", "source": "reasoning_gym/gsm_symbolic"}
    assert gym.get_score_answer_fn("gsm_symbolic")("-5", item) == 1.0
    assert check_answer(item, "#### -5") == 0.0
    assert check_answer(item, "#### 5") == 1.0


@pytest.mark.parametrize(
    ("response", "number"),
    [
        ("so 6 * 7 = 42\n#### 42", "42"),
        ("#### $1,050.00 (that is 3 * 350)", "1050"),
        ("The answer is 42.", "42"),
        ("She pays $1,200 for 3 of them", "3"),
        ("12 - 16 = -4", "-4"),
        ("x\u2212y = \u22124", "-4"),
        ("10-3", "3"),
        ("2.50", "2.5"),
        ("100", "100"),
        ("none", None),
        ("12 and then ####", None),
    ],
)
def test_final_number(response, number):
    assert final_number(response) == number


def test_numbers_of_a_text():
    assert [float(n) for n in numbers("1,234 and 5,6 but v2 or 3.5kg, -7, 8-9.")] == [1234, 5, 6, 3.5, -7, 8, 9]


def test_without_reasoning_gym_the_error_says_how_to_get_it(monkeypatch):
    problems._reasoning_gym.cache_clear()
    monkeypatch.setattr(problems, "find_spec", lambda name: None)
    with pytest.raises(CourseError, match="pip install --no-deps reasoning-gym==0.1.25"):
        word_problems("train", 1)


@needs_gym
def test_only_the_arithmetic_of_reasoning_gym_is_imported():
    """The package's own import needs a solver that has to be compiled; a user's later import must still be its own."""
    code = """import sys; from course_lib.data.generators import word_problems; word_problems("train", 20)
sys.exit(bool({"reasoning_gym", "pycosat", "reasoning_gym.logic"} & set(sys.modules)))"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_an_unknown_source_is_named():
    with pytest.raises(CourseError, match="source='gsm8k' cannot be verified"):
        check_answer({"source": "gsm8k", "answer": "1"}, "1")
