"""The families of `instruction_set`: each function draws one question whose answer is computed, never guessed.

Here are those about words and texts; those that reckon are in `number_families`. A family returns a `Question`. Its
wordings are templates: one that holds ``{x}`` carries the material in the instruction; one without it leaves the
material to the ``input`` field, as in the Alpaca format.
"""

import json
from collections.abc import Callable
from random import Random
from typing import Any

from course_lib.data.generators import number_families as number
from course_lib.data.generators.questions import Question, nearby, read_pairs, shuffled, swapped, with_article
from course_lib.data.generators.words import (
    ADJECTIVES,
    CATEGORIES,
    CITIES,
    GOODS,
    JOBS,
    LONG_WORDS,
    NAMES,
    NOUNS,
    OPPOSITES,
    PASTS,
    PLURALS,
    SENTENCES,
    TITLE_CASE,
    VERBS,
    WEEKDAYS,
)


def sort_words(rng: Random) -> Question:
    """Alphabetical order, forwards or backwards."""
    words = rng.sample(NOUNS, rng.randint(4, 6))
    backwards = rng.random() < 0.3
    ordered = sorted(words, reverse=backwards)
    order = "reverse alphabetical order" if backwards else "alphabetical order"
    asks = (f"Sort these words in {order}: {{x}}", f"Put the words in {order}.", f"List the following in {order}.")
    content = ", ".join(shuffled(rng, words, ordered))
    return Question(", ".join(sorted(words)), asks, content, ", ".join(ordered), ", ".join(swapped(rng, ordered)))


def count_letters(rng: Random) -> Question:
    """How often a letter occurs in a word."""
    word = rng.choice(LONG_WORDS)
    letter = rng.choice(sorted(set(word)))
    count = word.count(letter)
    asks = (
        f'How many times does the letter "{letter}" occur in the word "{{x}}"?',
        f'Count the letter "{letter}" in "{{x}}".',
        f'Count how often the letter "{letter}" appears in the word.',
    )
    reply = f'The number of times that "{letter}" occurs in "{word}" is {{a}}.'
    return Question(f"{letter} in {word}", asks, word, str(count), nearby(rng, count), reply)


def reverse_word(rng: Random) -> Question:
    """A word spelt backwards."""
    word = rng.choice(NOUNS + LONG_WORDS + CATEGORIES["animal"] + CATEGORIES["fruit"])
    backwards = list(word[::-1])
    asks = ('Spell "{x}" backwards.', "Reverse the letters of the word.", 'Write the word "{x}" from back to front.')
    return Question(word, asks, word, "".join(backwards), "".join(swapped(rng, backwards)))


def extract_email(rng: Random) -> Question:
    """The one e-mail address in a sentence (reserved example domains only, RFC 2606)."""
    name, other = (part.lower() for part in rng.sample(NAMES, 2))
    host = f"{rng.choice(NOUNS)}.example"
    address = f"{name}.{rng.choice(NOUNS)}@{host}"
    text = rng.choice(
        (
            f"Please write to {address} before {rng.choice(WEEKDAYS)}.",
            f"The workshop in {rng.choice(CITIES)} is run by {name.title()} ({address}).",
            f"{name.title()} has moved to room {rng.randint(2, 90)}; the address {address} is unchanged.",
            f"Questions about the {rng.choice(NOUNS)} go to {address}, not to the front desk.",
        )
    )
    asks = (
        "Extract the e-mail address from the text.",
        "Find the e-mail address in this text: {x}",
        "What is the e-mail address in the following sentence? Reply with the address only.",
    )
    return Question(address, asks, text, address, address.replace(name, other))


def plural(rng: Random) -> Question:
    """Plural nouns, mostly irregular."""
    one, many = rng.choice(read_pairs(PLURALS))
    wrong = one + "s" if one + "s" != many else one + "es"
    asks = (
        'What is the plural of "{x}"?',
        "Give the plural form of the noun.",
        'Write "{x}" in the plural.',
        "Write the plural of this word.",
    )
    return Question(one, asks, one, many, wrong, f'The plural of "{one}" is "{{a}}".')


def past_tense(rng: Random) -> Question:
    """The simple past of a verb, mostly irregular."""
    verb, past = rng.choice(read_pairs(PASTS))
    regular = verb + ("d" if verb.endswith("e") else "ed")
    wrong = regular if regular != past else verb + "s"
    asks = (
        'What is the past tense of "{x}"?',
        "Give the simple past of the verb.",
        'Put the verb "{x}" in the past.',
        "Write the past tense of this verb. Reply with one word.",
    )
    return Question(verb, asks, verb, past, wrong)


def opposite(rng: Random) -> Question:
    """Words with one clear opposite, asked in both directions."""
    pairs = read_pairs(OPPOSITES)
    pair, other = rng.sample(pairs, 2)
    word, answer = pair if rng.random() < 0.5 else pair[::-1]
    word, wrong = word.split("|")[0], other[0].split("|")[0]
    asks = (
        'What is the opposite of "{x}"?',
        "Give an antonym of the word.",
        'Name the opposite of the word "{x}".',
        "Write a word that means the opposite.",
    )
    return Question(" ".join(pair), asks, word, answer, wrong, f'The opposite of "{word}" is "{{a}}".')


def change_case(rng: Random) -> Question:
    """Upper, lower or title case: the words stay, and the letters' case changes."""
    phrase = rng.choice(SENTENCES).format(rng.choice(ADJECTIVES), *rng.sample(NOUNS, 2))
    mode, style = rng.choice((("upper case", str.upper), ("lower case", str.lower), (TITLE_CASE, str.title)))
    asks = (f"Rewrite the text in {mode}.", f"Change this to {mode}: {{x}}", f"Convert the sentence to {mode}.")
    words = style(phrase).split()
    wrong = " ".join(words[:-2] + words[-1:])
    return Question(phrase, asks, phrase, " ".join(words), wrong, misformatted=phrase.swapcase())


def to_json(rng: Random) -> Question:
    """A sentence about a person or a purchase, as a JSON object with the named keys."""
    if rng.random() < 0.5:
        record: dict[str, Any] = {"name": rng.choice(NAMES), "age": rng.randint(18, 90), "city": rng.choice(CITIES)}
        text = "{name} is {age} years old and lives in {city}."
        fields = "name, age and city"
    else:
        record = {"item": rng.choice(GOODS), "quantity": rng.randint(2, 30), "price": rng.randint(31, 99)}
        text = "The shop has {quantity} pieces of the item {item}, at a price of {price} euros each."
        fields = "item, quantity and price"
    key = "age" if "age" in record else "quantity"
    asks = (
        f"Turn the sentence into a JSON object with the keys {fields}.",
        f"Extract {fields} from this sentence as JSON: {{x}}",
        f"Return JSON with the fields {fields}.",
    )
    wrong = json.dumps(record | {key: record[key] + 1})
    prose = "; ".join(f"{field} is {value}" for field, value in record.items())
    return Question(str(record), asks, text.format(**record), json.dumps(record), wrong, misformatted=prose)


def voice(rng: Random) -> Question:
    """Active to passive and back."""
    past, participle = rng.choice(read_pairs(VERBS))
    doer, thing = f"the {rng.choice(JOBS)}", f"the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"

    def say(to: str, doer: str, thing: str) -> str:
        """The sentence in the voice `to`."""
        sentence = f"{doer} {past} {thing}." if to == "active" else f"{thing} was {participle} by {doer}."
        return sentence.capitalize()

    start, goal = rng.choice((("active", "passive"), ("passive", "active")))
    asks = (
        f"Rewrite the sentence in the {goal} voice.",
        f"Change this sentence to the {goal} voice: {{x}}",
        f"Turn the {start} sentence into its {goal} form.",
    )
    wrong = say(goal, thing, doer)
    return Question(f"{doer} {past} {thing}", asks, say(start, doer, thing), say(goal, doer, thing), wrong)


def acronym(rng: Random) -> Question:
    """The initials of a made-up society."""
    words = [word.title() for word in rng.sample(ADJECTIVES, 2) + rng.sample(NOUNS, rng.randint(1, 2)) + ["Society"]]
    letters = [word[0] for word in words]
    asks = (
        'What is the acronym of "{x}"?',
        "Form the acronym from the initial letters of the name.",
        "Shorten the name to its initials.",
    )
    name, answer = " ".join(words), "".join(letters)
    return Question(name, asks, name, answer, answer[:-1] + rng.choice("XZQ"))


def filter_list(rng: Random) -> Question:
    """Keep the members of one category, or the even or odd numbers, in their order."""
    if rng.random() < 0.5:
        wanted, other = rng.sample(sorted(CATEGORIES), 2)
        keep, drop = rng.sample(CATEGORIES[wanted], rng.randint(2, 4)), rng.sample(CATEGORIES[other], 3)
        wanted += "s"
    else:
        odd = rng.randrange(2)
        keep = [str(n) for n in rng.sample(range(10 + odd, 98, 2), rng.randint(2, 4))]
        drop = [str(n) for n in rng.sample(range(11 - odd, 98, 2), 3)]
        wanted = "odd numbers" if odd else "even numbers"
    mixed = rng.sample(keep + drop, len(keep) + 3)
    kept = [item for item in mixed if item in keep]
    wrong = [item for item in mixed if item in keep or item == drop[0]] if rng.random() < 0.5 else kept[1:]
    asks = (
        f"Keep only the {wanted} from the list.",
        f"Which of these are {wanted}? {{x}}",
        f"List just the {wanted}, in the given order.",
    )
    return Question(", ".join(sorted(mixed)), asks, ", ".join(mixed), ", ".join(kept), ", ".join(wrong))


def count_words(rng: Random) -> Question:
    """The number of words in a sentence."""
    text = rng.choice(SENTENCES).format(rng.choice(ADJECTIVES), *rng.sample(NOUNS, 2))
    if rng.random() < 0.6:
        text += rng.choice(
            (" again", " last night", " on a cold morning", " without a word", f" in {rng.choice(CITIES)}")
        )
    count = len(text.split())
    asks = ("How many words are in the sentence?", 'Count the words in "{x}".', "Count the words of this text.")
    return Question(text, asks, text, str(count), nearby(rng, count), "The text has {a} words.")


def nth_word(rng: Random) -> Question:
    """The word at a named place of a list; always with an input, so that the instruction names no candidate."""
    words = rng.sample(NOUNS, rng.randint(5, 6))
    place = rng.randrange(5)
    name = ("first", "second", "third", "fourth", "fifth")[place]
    asks = (f"What is the {name} word in the list?", f"Name the {name} item.", f"Give the {name} word of the list.")
    wrong = words[(place + 1) % 5]
    return Question(" ".join(words), asks, ", ".join(words), words[place], wrong, f'The {name} word is "{{a}}".')


def classify(rng: Random) -> Question:
    """Animal, fruit or tool."""
    category, other = rng.sample(sorted(CATEGORIES), 2)
    word = rng.choice(CATEGORIES[category])
    subject = f"The word {word}"
    asks = (
        "Say whether {x} names an animal, a fruit or a tool.",
        "Classify the word as animal, fruit or tool.",
        "Which category fits: animal, fruit or tool?",
        "Does {x} name an animal, a fruit or a tool?",
    )
    answer, wrong = with_article(category), with_article(other)
    return Question(word, asks, f'"{word}"', answer, wrong, f"{subject} names {{a}}.")


def remove_repeats(rng: Random) -> Question:
    """A list in which each word is kept at its first place only."""
    words = rng.sample(NOUNS, rng.randint(3, 5))
    listed = rng.sample(words + rng.sample(words, 2), len(words) + 2)
    once = list(dict.fromkeys(listed))
    wrong = [*once, rng.choice(once)]
    asks = (
        "Remove the repeated words from the list.",
        "Give this list without duplicates: {x}",
        "List each word once, in order of first appearance.",
    )
    return Question(" ".join(listed), asks, ", ".join(listed), ", ".join(once), ", ".join(wrong))


# Their order is part of the data: it decides what a seed draws.
FAMILIES: dict[str, Callable[[Random], Question]] = {
    family.__name__: family
    for family in (
        *(number.unit_conversion, sort_words, number.sort_numbers, count_letters, reverse_word, extract_email),
        *(number.iso_date, number.day_of_week, plural, past_tense, opposite, change_case, to_json, voice),
        *(number.arithmetic, number.compare, acronym, number.roman, filter_list, count_words, number.sequence),
        *(nth_word, classify, remove_repeats),
    )
}
