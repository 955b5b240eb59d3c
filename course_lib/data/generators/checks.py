"""Does a free-text response give the right answer? One rule for each kind of answer, chosen by the task's name.

Each rule accepts harmless wording around the answer and refuses a response that gives a wrong answer, several
answers, or none. The rules prefer refusing a right answer in strange words to accepting a wrong one.
"""

import json
import re
from collections.abc import Callable
from decimal import Decimal

from course_lib.data.generators.words import UNITS, WEEKDAYS

HEDGE = re.compile(r"\b(?:not|never|or|maybe|perhaps|either|sorry|cannot|unsure|wrong|incorrect)\b|n['’]t\b", re.I)
NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\.?\d)")
SMALL = "zero one two three four five six seven eight nine ten eleven twelve once twice".split()
SMALL_VALUES = dict(zip(SMALL, [*range(13), 1, 2], strict=True))
# What may stand around a one-word answer; any other word that the question does not hold counts as an answer.
HARMLESS = set(
    "a an the of is are was would be it its it's this that you your asked for to in on as word words answer correct "
    "right form forms plural singular noun verb past tense simple opposite antonym backwards reversed reverse "
    "letters becomes written spelt spelled sure certainly gladly course happy help with pleasure here i my list item "
    "in irregular english called means usually and so one great question thanks please".split()
)


def numbers(text: str) -> list[Decimal]:
    """Every number in `text`, in order.

    Commas between thousands are read. A hyphen after a digit or a letter does not count as a minus sign.
    """
    return [Decimal(found.replace(",", "")) for found in NUMBER.findall(text.replace("\u2212", "-"))]


def final_part(response: str) -> str:
    """What a response presents as its result: the quotation that ends it, or what follows its last colon."""
    last = response.strip().rstrip("`").rstrip().splitlines()[-1:] or [""]
    quoted = re.search(r"[\"“]([^\"“”]+)[\"”]\.?\s*$", last[0])
    text = quoted[1] if quoted else re.split(r":\s", last[0])[-1]
    return re.sub(r"\s+", " ", text.strip(" \"'`*“”").removesuffix("."))


def _unspoken(prompt_parts: tuple[str, str], response: str) -> str:
    """`response` without verbatim repetitions of the question, which claim nothing."""
    for part in sorted((part for part in prompt_parts if part), key=len, reverse=True):
        response = re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", " ", response)
    return response


def _one_of(found: list, asked: list, answer: object) -> bool:
    """Whether `found` claims the answer alone. What the question mentions may be repeated, unless it has the answer."""
    if answer in asked:
        return set(found) == {answer}
    return set(found) - set(asked) == {answer}


def _counted(text: str) -> list[Decimal]:
    """`numbers`, and the words zero to twelve, once and twice, in order."""
    spelled = re.sub(r"[A-Za-z]+", lambda word: str(SMALL_VALUES.get(word[0].lower(), word[0])), text)
    return numbers(spelled)


def check_number(answer: str, prompt: str, response: str) -> bool:
    """One number is claimed, and it is `answer`; 3000, 3,000 and 3000.0 are the same.

    Args:
        answer: the right number, in digits.
        prompt: the question, with its material.
        response: what was answered.

    Returns:
        Whether the response is right.
    """
    return not HEDGE.search(response) and _one_of(_counted(response), numbers(prompt), Decimal(answer))


def _unit_names() -> dict[str, str]:
    """Every spelling of every unit -> its plural in `UNITS`."""
    names = {one: many for big in UNITS for one, many in ((big[0], big[1]), (big[3], big[4]))}
    names |= {many: many for many in names.values()}
    return names | {name.replace("metre", "meter").replace("litre", "liter"): many for name, many in names.items()}


UNIT_NAMES = _unit_names() | {"km": "kilometres", "m": "metres", "cm": "centimetres", "mm": "millimetres"}
UNIT_NAMES |= {"kg": "kilograms", "g": "grams", "l": "litres", "ml": "millilitres", "h": "hours", "min": "minutes"}


def check_quantity(answer: str, prompt: str, response: str) -> bool:
    """One number is claimed, as in `check_number`, and a unit that follows it must be the answer's.

    Args:
        answer: the number and its unit, such as "3000 metres".
        prompt: the question, with its material.
        response: what was answered.

    Returns:
        Whether the response is right.
    """
    value, unit = answer.split()
    units = [
        UNIT_NAMES[name.lower()]
        for number, name in re.findall(r"(-?[\d,]+(?:\.\d+)?)\s*([A-Za-z]+)", response)
        if name.lower() in UNIT_NAMES and numbers(number) == [Decimal(value)]
    ]
    return check_number(value, prompt, response) and set(units) <= {unit}


def _check_mentions(pattern: str) -> Callable[[str, str, str], bool]:
    """A rule for answers that a pattern recognises: exactly one is claimed, and it is the right one."""

    def check(answer: str, prompt: str, response: str) -> bool:
        """The rule for this pattern; its arguments are those of `check_number`."""
        found, asked = re.findall(pattern, response), re.findall(pattern, prompt)
        return not HEDGE.search(response) and _one_of(found, asked, answer)

    return check


def check_weekday(answer: str, prompt: str, response: str) -> bool:
    """One weekday is claimed, and no other number of days than the question's ("the one" is not counted as a number).

    Args:
        answer: the right weekday.
        prompt: the question, with its material.
        response: what was answered.

    Returns:
        Whether the response is right.
    """
    one_day = _check_mentions(rf"\b(?:{'|'.join(WEEKDAYS)})\b")(answer, prompt, response)
    return one_day and set(_counted(response)) - {1} <= set(numbers(prompt))


def check_words(answer: str, prompt: str, response: str) -> bool:
    """One word is claimed: besides it the response has only words of the prompt and `HARMLESS` ones.

    Args:
        answer: one word, or several with ``|`` between them, each of them right.
        prompt: the question, with its material.
        response: what was answered.

    Returns:
        Whether the response is right.
    """
    rights = set(answer.split("|"))
    allowed = (HARMLESS | set(re.findall(r"[a-z']+", prompt.lower()))) - rights
    claimed = {word.strip("'") for word in re.findall(r"[a-z']+", response.lower())} - allowed - {""}
    return len(claimed) == 1 and claimed <= rights


def check_text(answer: str, prompt: str, response: str) -> bool:
    """The final part is the answer, letter for letter. Only spacing and a full stop at the end may differ.

    Args:
        answer: the right text.
        prompt: the question, with its material.
        response: what was answered.

    Returns:
        Whether the response is right.
    """
    return final_part(response) == answer.removesuffix(".")


def check_list(answer: str, prompt: str, response: str) -> bool:
    """The response has the same items in the same order, separated by commas, "and" or lines, with or without bullets.

    Args:
        answer: the right items, with commas between them.
        prompt: the question, with its material.
        response: what was answered.

    Returns:
        Whether the response is right.
    """
    body = response.rsplit(":", 1)[-1].strip()
    last_line = body.rpartition("\n")[2]
    body = last_line if "," in last_line else body
    body = re.sub(r"^[^,\n]*?\b(?:is|are|gives)\s+", "", body)
    parts = re.split(r"[,;\n]|\band\b", body)
    items = [re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", part).strip(" .\"'`[]*").lower() for part in parts]
    return [item for item in items if item] == answer.lower().split(", ")


def check_json(answer: str, prompt: str, response: str) -> bool:
    """The one JSON object in the response has the answer's keys and values, types included.

    Args:
        answer: the right object, as JSON.
        prompt: the question, with its material.
        response: what was answered.

    Returns:
        Whether the response is right.
    """
    found = re.search(r"\{.*\}", response, re.DOTALL)
    try:
        return found is not None and json.loads(found[0]) == json.loads(answer)
    except json.JSONDecodeError:
        return False


def check_comparison(answer: str, prompt: str, response: str) -> bool:
    """The response settles on one of two numbers.

    It may give one number alone, or both and then the right one, or say "9 is larger than 4", where 9 is right and the
    words agree.

    Args:
        answer: the right number.
        prompt: the question, with its material.
        response: what was answered.

    Returns:
        Whether the response is right.
    """
    found, right = numbers(response), Decimal(answer)
    if HEDGE.search(response) or right not in found or not set(found) <= set(numbers(prompt)):
        return False
    if len(found) == 3 and " than " not in response:
        return found[2] == right
    if len(set(found)) == 1:
        return True
    word = "larger|greater|bigger|higher|more" if right == max(found) else "smaller|less|lower|fewer"
    return len(found) == 2 and found[0] == right and bool(re.search(rf"\d (?:is )?(?:{word}) than \d", response))


def check_roman(answer: str, prompt: str, response: str) -> bool:
    """One number is claimed, or one Roman numeral in capitals. A lone I is the pronoun, because no answer is I.

    Args:
        answer: the right number or numeral.
        prompt: the question, with its material.
        response: what was answered.

    Returns:
        Whether the response is right.
    """
    if answer.isdigit():
        return check_number(answer, prompt, response)
    return _check_mentions(r"\b(?!I\b)[IVXLCDM]+\b")(answer, prompt, response)


def check_category(answer: str, prompt: str, response: str) -> bool:
    """Exactly one of animal, fruit and tool is named.

    Args:
        answer: the right category, with its article: "an animal".
        prompt: the question, with its material.
        response: what was answered.

    Returns:
        Whether the response is right.
    """
    found = re.findall(r"\b(animal|fruit|tool)s?\b", response.lower())
    return not HEDGE.search(response) and set(found) == {answer.split()[-1]}


CHECKS: dict[str, Callable[[str, str, str], bool]] = {
    "acronym": _check_mentions(r"\b[A-Z]{2,}\b"),
    "arithmetic": check_number,
    "change_case": check_text,
    "classify": check_category,
    "compare": check_comparison,
    "count_letters": check_number,
    "count_words": check_number,
    "day_of_week": check_weekday,
    "extract_email": _check_mentions(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    "filter_list": check_list,
    "iso_date": _check_mentions(r"\b\d{4}-\d{2}-\d{2}\b"),
    "nth_word": check_words,
    "opposite": check_words,
    "past_tense": check_words,
    "plural": check_words,
    "remove_repeats": check_list,
    "reverse_word": check_words,
    "roman": check_roman,
    "sequence": check_number,
    "sort_numbers": check_list,
    "sort_words": check_list,
    "to_json": check_json,
    "unit_conversion": check_quantity,
    "voice": check_text,
}


def check_response(task: str, instruction: str, given: str, answer: str, response: str) -> bool:
    """Apply the task's rule, after verbatim repetitions of the question are taken out of the response.

    Args:
        task: a key of `CHECKS`.
        instruction: what was asked.
        given: the material that it was asked about; "" where the instruction holds it.
        answer: what the task's rule compares with.
        response: what was answered.

    Returns:
        Whether the response is right.
    """
    prompt = instruction if task == "nth_word" else f"{instruction}\n{given}"
    return CHECKS[task](answer, prompt, _unspoken((instruction, given), response))
