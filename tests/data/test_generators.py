"""The embedded data sets: reproducible, split by content, checkable, and described by cards that cannot rot."""

import hashlib
import json
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from itertools import islice

import pytest

from course_lib.data import style_corpus
from course_lib.data.generators import (
    cards,
    check_answer,
    check_instruction,
    check_preference,
    data_card,
    final_number,
    instruction_set,
    preference_pairs,
    problems,
    word_problems,
)
from course_lib.data.generators.checks import numbers
from course_lib.data.generators.instructions import questions
from course_lib.data.generators.number_families import to_roman
from course_lib.data.generators.preferences import REJECTIONS
from course_lib.errors import CourseError

needs_gym = pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed")
MAKERS = {"instructions": instruction_set, "preferences": preference_pairs, "word_problems": word_problems}
NAMES = ["instructions", "preferences", pytest.param("word_problems", marks=needs_gym)]
IDENTITY = {"instructions": ("instruction", "input"), "preferences": ("prompt",), "word_problems": ("question",)}


@pytest.fixture(scope="module")
def items():
    return instruction_set("train") + instruction_set("held_out")


def digest(rows):
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def asked(name, rows):
    return [tuple(row[field] for field in IDENTITY[name]) for row in rows]


# ---------------------------------------------------------------- all three


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_items_in_every_process(name):
    make = MAKERS[name]
    here = digest(make("train", 120, 3))
    code = (
        "import hashlib, json, course_lib.data.generators as g\n"
        f"rows = g.{make.__name__}('train', 120, 3)\n"
        "print(hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == here
    assert digest(make("train", 120, 4)) != here


@pytest.mark.parametrize("name", NAMES)
def test_a_smaller_size_is_a_prefix(name):
    make = MAKERS[name]
    assert make("held_out", 25, 5) == make("held_out", 90, 5)[:25]
    assert len(make("train", 1)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_asked_twice_within_or_between_splits(name):
    """Also across seeds and sizes, as the content alone decides the split."""
    make = MAKERS[name]
    train, held_out = asked(name, make("train", 2500, 0)), asked(name, make("held_out", 600, 0))
    assert len(set(train)) == 2500
    assert len(set(held_out)) == 600
    other_seeds = [question for seed in (1, 2) for question in asked(name, make("held_out", 600, seed))]
    assert not set(train) & set(held_out + other_seeds)


@needs_gym
def test_no_problem_comes_back_in_another_order():
    train, held_out = (
        {tuple(sorted(re.findall(r"\w+|[*+/-]", item["question"]))) for item in word_problems(split)}
        for split in ("train", "held_out")
    )
    assert (len(train), len(held_out)) == (1000, 200)
    assert not train & held_out


@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_items_in_under_a_second(name):
    MAKERS[name]("train", 1)  # word problems import their library once
    start = time.perf_counter()
    MAKERS[name]("train", 1000, 11)
    assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize("name", NAMES)
def test_bad_arguments_are_named(name):
    with pytest.raises(CourseError, match="split='test' is unknown; use one of 'train', 'held_out'"):
        MAKERS[name]("test")
    with pytest.raises(CourseError, match="size=0 is too small"):
        MAKERS[name]("train", 0)


def test_import_needs_neither_torch_nor_reasoning_gym():
    code = "import course_lib.data.generators, sys; sys.exit(bool({'torch', 'reasoning_gym'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---------------------------------------------------------------- instructions


def test_every_family_has_wordings_with_and_without_input(items):
    forms = {}
    for item in items:
        forms.setdefault(item["task"], set()).add((re.sub(r"[\d.]+", "#", item["instruction"]), bool(item["input"])))
    assert len(forms) >= 20
    assert all(len(wordings) >= 3 for wordings in forms.values())
    with_input = {task for task, wordings in forms.items() if any(given for _, given in wordings)}
    without = {task for task, wordings in forms.items() if not all(given for _, given in wordings)}
    assert with_input == set(forms)
    assert set(forms) - without <= {"nth_word"}
    shares = Counter(item["task"] for item in items)
    assert min(shares.values()) > 20


def test_items_are_alpaca_strings_that_pass_their_own_check(items):
    for item in items:
        assert set(item) == {"instruction", "input", "output", "task", "answer"}
        assert all(isinstance(value, str) for value in item.values())
        assert item["instruction"]
        assert "{" not in item["instruction"]
        assert check_instruction(item, item["output"]), item


def test_harmless_wording_passes(items):
    for item in items:
        for wording in ("{}", "  {}\n", "Of course: {}", "Certainly.\n\n{}"):
            if item["task"] in ("filter_list", "remove_repeats") and "," not in item["answer"]:
                continue
            assert check_instruction(item, wording.format(item["output"])), (wording, item)
        assert check_instruction(item, item["answer"].split("|")[0]), item


def corruptions(item, other):
    """Responses that must fail: nothing, refusals, the question back, other and damaged answers, two answers."""
    answer, output = item["answer"].split("|")[0], item["output"]
    damaged = re.sub(r"\d+", lambda number: str(int(number[0]) + 1), answer, count=1)
    damaged = damaged if damaged != answer else answer[:-2]
    yield from ("", "I am sorry, but I cannot help with that.", "I do not know.", item["instruction"])
    yield f"{item['instruction']}\n{item['input']}"
    yield other["output"]
    yield output.replace(answer, damaged)
    yield f"{output} or {other['output']}"
    yield output.replace(answer, f"{answer} or {damaged}")


def test_corrupted_answers_fail_on_every_item(items):
    by_task = {}
    for item in items:
        by_task.setdefault(item["task"], []).append(item)
    for same in by_task.values():
        for i, item in enumerate(same):
            # A true converse is no corruption: 'The opposite of "hot" is "cold"' does answer for "cold".
            converse = item["task"] in ("opposite", "day_of_week")
            prompt = f"{item['instruction']} {item['input']}" if converse else ""
            other = next(
                other
                for other in same[i + 1 :] + same
                if other["answer"] != item["answer"]
                and not set(other["answer"].split("|")) & set(re.findall(r"\w+", prompt))
            )
            wrong = list(corruptions(item, other))
            assert len(wrong) >= 5
            passed = [response for response in wrong if check_instruction(item, response)]
            assert not passed, (item, passed)


def test_each_familys_likely_mistake_fails():
    for item, question in islice(questions("train", "mistakes"), 3000):
        mistake = question.reply.replace("{a}", question.wrong)
        assert not check_instruction(item, mistake), (item, mistake)
        if question.misformatted:
            assert not check_instruction(item, question.misformatted), (item, question.misformatted)


def item_for(task, instruction, given, answer):
    return {"task": task, "instruction": instruction, "input": given, "answer": answer, "output": answer}


WEEKDAY = item_for("day_of_week", "What day of the week is 3 days after Sunday?", "", "Wednesday")
METRES = item_for("unit_conversion", "Convert 3 kilometres to metres.", "", "3000 metres")
COUNT = item_for("count_letters", 'Count the letter "a" in "banana".', "", "3")
PLURAL = item_for("plural", 'What is the plural of "mouse"?', "", "mice")
SORT = item_for(
    "sort_words", "Sort these words in alphabetical order: river, anchor, mirror", "", "anchor, mirror, river"
)
JSON = item_for("to_json", "Return JSON.", "Ada is 36.", '{"name": "Ada", "age": 36}')
LARGER = item_for("compare", "Which number is larger: 9.11 and 9.8?", "", "9.8")
UPPER = item_for("change_case", "Rewrite the text in upper case.", "my old lamp", "MY OLD LAMP")
ROMAN = item_for("roman", "Write 14 as a Roman numeral.", "", "XIV")
EMAIL = item_for("extract_email", "Extract the e-mail address.", "Write to a.b@c.example soon.", "a.b@c.example")
OPPOSITE = item_for("opposite", 'What is the opposite of "soft"?', "", "hard|loud")


@pytest.mark.parametrize(
    ("item", "response", "right"),
    [
        (WEEKDAY, "It is Wednesday, as Wednesday comes three days after Sunday.", True),
        (WEEKDAY, "Wednesday or Thursday.", False),
        (WEEKDAY, "It isn't Wednesday.", False),
        (WEEKDAY, "Thursday comes 3 days after Sunday.", False),
        (WEEKDAY, "5 days before Wednesday is a Friday.", False),
        (WEEKDAY, "4 days before Wednesday is a Sunday.", False),
        (METRES, "3 km = 3,000 m", True),
        (METRES, "There are 3000.0 meters in 3 kilometres.", True),
        (METRES, "3000m", True),
        (METRES, "3000 kilograms", False),
        (METRES, "3 kilometres is 300 metres.", False),
        (METRES, "It is 3000, or rather 30000 metres.", False),
        (COUNT, "Three times.", True),
        (COUNT, 'The word "banana" contains "a" 3 times.', True),
        (COUNT, "2", False),
        (COUNT, "3 or 4", False),
        (PLURAL, "You would write it as mice.", False),  # strange words: refused rather than guessed at
        (PLURAL, "The correct plural form of the noun mouse is mice.", True),
        (PLURAL, "mice, mouses", False),
        (SORT, "Sure! Here is the list:\n- anchor\n- mirror\n- river", True),
        (SORT, "1. Anchor\n2. Mirror\n3. River", True),
        (SORT, "The sorted words are anchor, mirror and river.", True),
        (SORT, "anchor, mirror", False),
        (SORT, "anchor, mirror, river, tunnel", False),
        (SORT, "river, mirror, anchor", False),
        (JSON, '```json\n{"age": 36, "name": "Ada"}\n```', True),
        (JSON, '{"name": "Ada", "age": "36"}', False),
        (JSON, '{"name": "Ada"}', False),
        (JSON, "{name: Ada, age: 36}", False),
        (LARGER, "9.8 is larger than 9.11.", True),
        (LARGER, "Between 9.11 and 9.8, the larger is 9.8.", True),
        (LARGER, "9.11 is larger than 9.8.", False),
        (LARGER, "9.8 is smaller than 9.11.", False),
        (LARGER, "9.8 is larger than 2.", False),
        (LARGER, "9.11", False),
        (UPPER, 'In upper case the text is "MY OLD LAMP".', True),
        (UPPER, "my old lamp", False),
        (UPPER, "MY OLD LAMB", False),
        (ROMAN, "I think that 14 is XIV.", True),
        (ROMAN, "XVI", False),
        (ROMAN, "I", False),
        (EMAIL, "The address is a.b@c.example.", True),
        (EMAIL, "Write to a.b@c.example soon.", False),  # the question back is no answer
        (EMAIL, "a.b@c.example, x@y.example", False),
        (OPPOSITE, "loud", True),
        (OPPOSITE, "Hard.", True),
        (OPPOSITE, "easy", False),
    ],
)
def test_check_on_free_text(item, response, right):
    assert check_instruction(item, response) is right


def test_an_unknown_task_is_named():
    with pytest.raises(CourseError, match="task='poetry' has no check"):
        check_instruction({"task": "poetry"}, "roses")


def test_answers_by_other_means(items):
    """Independent arithmetic for the families that have some."""
    units = {"week": 7 * 86400, "day": 86400, "hour": 3600, "minute": 60, "second": 1}
    checked = Counter()
    for item in items:
        text = f"{item['instruction']}\n{item['input']}"
        task, answer = item["task"], item["answer"]
        if task == "arithmetic":
            a, sign, b = re.search(r"(\d+) ([-+*/]) (\d+)", text).groups()
            assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}.get(sign, int(a) / int(b)) == int(
                answer
            )
        elif task == "unit_conversion" and (found := re.search(r"(\d+) (week|day|hour|minute|second)s", text)):
            value, unit = answer.split()
            assert int(found[1]) * units[found[2]] == int(value) * units[unit.removesuffix("s")]
        elif task == "count_letters":
            letter, word = re.search(r'letter "(\w)"', text)[1], item["output"].split('"')[3]
            assert sum(character == letter for character in word) == int(answer)
        elif task == "sort_words" and item["input"]:
            assert sorted(item["input"].split(", "), reverse="reverse" in text) == answer.split(", ")
        else:
            continue
        checked[task] += 1
    assert set(checked) == {"arithmetic", "unit_conversion", "count_letters", "sort_words"}
    assert min(checked.values()) > 10


def test_roman_numerals_by_subtraction():
    value = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
    for number in range(1, 4000):
        digits = [value[letter] for letter in to_roman(number)]
        pairs = zip(digits, digits[1:] + [0], strict=True)
        assert sum(-digit if digit < after else digit for digit, after in pairs) == number
    assert [to_roman(n) for n in (4, 9, 40, 90, 400, 900, 1994)] == "IV IX XL XC CD CM MCMXCIV".split()


def test_facts_not_wordings_are_held_out():
    """A pair of opposites, or a number and its Roman numeral, is on one side of the split in both directions."""
    facts = {}
    for split in ("train", "held_out"):
        found = {(item["task"], question.fact) for item, question in islice(questions(split, "facts"), 3000)}
        facts[split] = found
        assert {"opposite", "roman"} <= {task for task, _ in found}
    assert not facts["train"] & facts["held_out"]
    words = {
        split: {
            frozenset((q.content, q.answer))
            for item, q in islice(questions(split, "f"), 2000)
            if item["task"] == "roman"
        }
        for split in facts
    }
    assert not words["train"] & words["held_out"]


# ---------------------------------------------------------------- preferences


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


# ---------------------------------------------------------------- word problems


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
    with pytest.raises(CourseError, match="source='gsm8k' has no verifier"):
        check_answer({"source": "gsm8k", "answer": "1"}, "1")


# ---------------------------------------------------------------- cards


def measured(name):
    """The numbers of a card, from the data."""
    if name == "keepers_log":
        text = style_corpus()
        return {"Entries": len(text.strip().split("\n\n")), "Words": len(text.split()), "Characters": len(text)}
    train, held_out = MAKERS[name]("train"), MAKERS[name]("held_out")
    if name == "instructions":
        return {
            "Items, train": len(train),
            "Items, held out": len(held_out),
            "Task families": len({item["task"] for item in train}),
            "Train items with an input": sum(bool(item["input"]) for item in train),
            "Train items answered in a sentence or equation": sum(
                item["output"] != item["answer"].split("|")[0] for item in train
            ),
            "Different instructions, train": len({item["instruction"] for item in train}),
            "Longest instruction with input, characters": max(
                len(item["instruction"] + item["input"]) for item in train + held_out
            ),
            "Longest output, characters": max(len(item["output"]) for item in train + held_out),
        }
    if name == "preferences":
        kinds = Counter(f"Train pairs rejected as {pair['why']}" for pair in train)
        families = {pair["task"] for pair in train}
        return {"Pairs, train": len(train), "Pairs, held out": len(held_out), "Task families": len(families)} | kinds
    sources = Counter(f"Train items from {item['source'].removeprefix('reasoning_gym/')}" for item in train)
    longest = max(len(item["question"]) for item in train + held_out)
    return {
        "Items, train": len(train),
        "Items, held out": len(held_out),
        "Longest question, characters": longest,
    } | sources


@pytest.mark.parametrize("name", ["keepers_log", *NAMES])
def test_card_numbers_are_the_datas(name):
    rows = re.findall(r"^\| (.+?) \| ([\d,]+) \|$", data_card(name), re.MULTILINE)
    assert {label: int(number.replace(",", "")) for label, number in rows} == measured(name)


def test_every_card_says_what_a_card_must():
    assert list(cards()) == ["keepers_log", "instructions", "preferences", "word_problems"]
    for card in cards().values():
        for part in ("How it was made", "Fields", "Licence", "Intended use", "Limits"):
            assert f"**{part}.**" in card
    families = re.search(r"\*\*Families\.\*\* ([^.]+)\.", data_card("instructions"))[1]
    assert set(re.split(r",\s+", families)) == {item["task"] for item in instruction_set()}
    with pytest.raises(CourseError, match="no data card 'poems'; the cards are keepers_log"):
        data_card("poems")
