"""The generated instructions: every item passes its own check, and likely mistakes fail it."""

import re
from collections import Counter
from importlib.util import find_spec
from itertools import islice

import pytest

from course_lib.data.generators import (
    check_instruction,
    instruction_set,
)
from course_lib.data.generators.instructions import questions
from course_lib.data.generators.number_families import to_roman
from course_lib.errors import CourseError

needs_gym = pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed")


@pytest.fixture(scope="module")
def items():
    return instruction_set("train") + instruction_set("held_out")


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
    with pytest.raises(CourseError, match="task='poetry' cannot be checked"):
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
