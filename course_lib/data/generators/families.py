"""The families of `instruction_set`: each function draws one question whose answer is computed, never guessed.

A family returns a `Question`. Its wordings are templates: one that holds ``{x}`` carries the material in the
instruction; one without it leaves the material to the ``input`` field, as in the Alpaca format.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October")
MONTHS += ("November", "December")
NAMES = (
    "Ada Amir Bela Chen Dara Elif Femi Greta Hana Ines Jonas Kofi Lena Mateo Nadia Omar Priya Rosa Sven Tala".split()
)
CITIES = "Accra Bergen Cairo Dublin Geneva Hanoi Leeds Lima Lisbon Nairobi Oslo Porto Quito Riga Seoul Turin".split()
JOBS = "baker carpenter doctor engineer farmer gardener nurse pilot printer sailor tailor teacher welder".split()
CATEGORIES = {
    "animal": "badger beaver camel donkey eagle falcon goat heron horse lizard monkey otter owl rabbit tiger".split(),
    "fruit": "apple apricot banana cherry fig grape lemon lime mango melon olive orange peach pear plum".split(),
    "tool": "axe chisel drill file hammer ladder mallet pliers rake saw scissors shovel spade spanner trowel".split(),
}
TITLE_CASE = "title case (a capital for every word)"
NOUNS = "anchor basket bottle bridge candle castle forest garden island jacket kettle lantern market mirror needle"
NOUNS = (NOUNS + " paper pencil pocket ribbon river saddle shadow silver timber tunnel valley velvet window").split()
GOODS = "basket bottle candle jacket kettle lantern mirror needle pencil ribbon saddle sofa teapot umbrella".split()
ADJECTIVES = "bright broken calm clever cold famous gentle green heavy hidden little lonely old quiet red rusty".split()
LONG_WORDS = "accessible assessment balloon banana bookkeeper cinnamon committee coffee coconut difference embarrass"
LONG_WORDS = LONG_WORDS + " engineer excellent happiness hippopotamus independence lighthouse mississippi necessary"
LONG_WORDS = (LONG_WORDS + " occurrence parallel possession raccoon referee strawberry successful tomorrow").split()
SENTENCES = ("The {} {} stood behind the {}", "Nobody saw the {} {} near the {}", "One {} {} fell into the {}")
SENTENCES += ("She painted the {} {} and the {}", "Every {} {} needs its own {}", "My {} {} hides under your {}")

# Pairs rather than a rule, because the exceptions are the exercise. `|` separates answers that are equally right.
PLURALS = "mouse mice,child children,foot feet,tooth teeth,goose geese,man men,woman women,ox oxen"
PLURALS += ",leaf leaves,knife knives,wolf wolves,shelf shelves,wife wives,loaf loaves,half halves,thief thieves"
PLURALS += ",city cities,baby babies,lady ladies,story stories,berry berries,party parties,country countries"
PLURALS += ",box boxes,bus buses,dish dishes,church churches,fox foxes,glass glasses,watch watches,brush brushes"
PLURALS += ",potato potatoes,tomato tomatoes,hero heroes,crisis crises,analysis analyses,louse lice"
PLURALS += ",cat cats,dog dogs,book books,lamp lamps,boat boats,river rivers,day days,key keys,piano pianos,roof roofs"
PASTS = "go went,be was|were,see saw,eat ate,run ran,take took,give gave,come came,write wrote,speak spoke,drive drove"
PASTS += ",swim swam,sing sang,begin began,drink drank,ring rang,know knew,grow grew,fly flew,throw threw,draw drew"
PASTS += ",buy bought,bring brought,think thought,teach taught,catch caught,fight fought,sell sold,tell told,find found"
PASTS += ",hold held,keep kept,sleep slept,leave left,feel felt,meet met,lead led,stand stood,win won,choose chose"
PASTS += ",carry carried,study studied,try tried,stop stopped,plan planned,walk walked,open opened,visit visited"
OPPOSITES = "hot|warm cold,up down,open closed|shut,early late,full empty,heavy|dark light,wet dry,day night,high low"
OPPOSITES += (
    ",inside outside,buy sell,push pull,rich poor,strong weak,true false,before after,left|wrong right,north south"
)
OPPOSITES += ",east west,love hate,always never,young|new old,clean dirty,fast|quick slow,hard|loud soft|easy,near far"
OPPOSITES += ",long|tall short,thick|fat thin,winner loser,remember forget,arrive leave|depart,victory defeat"
OPPOSITES += ",ancient modern,sharp blunt|dull,brave cowardly,cheap expensive|dear,guilty innocent,wide|broad narrow"
OPPOSITES += ",success failure,summer winter"
VERBS = "painted painted,washed washed,stole stolen,found found,broke broken,carried carried,sold sold,drew drawn"
VERBS += ",chose chosen,repaired repaired,hid hidden,borrowed borrowed,dropped dropped,forgot forgotten,lost lost"

# (one, many, how many of the next unit it holds, the next unit's name, its plural)
UNITS = (
    ("kilometre", "kilometres", 1000, "metre", "metres"),
    ("metre", "metres", 100, "centimetre", "centimetres"),
    ("centimetre", "centimetres", 10, "millimetre", "millimetres"),
    ("kilogram", "kilograms", 1000, "gram", "grams"),
    ("litre", "litres", 1000, "millilitre", "millilitres"),
    ("hour", "hours", 60, "minute", "minutes"),
    ("minute", "minutes", 60, "second", "seconds"),
    ("day", "days", 24, "hour", "hours"),
    ("week", "weeks", 7, "day", "days"),
    ("year", "years", 12, "month", "months"),
    ("foot", "feet", 12, "inch", "inches"),
    ("yard", "yards", 3, "foot", "feet"),
)


@dataclass(frozen=True)
class Question:
    """One question before it is worded. ``{a}`` in `reply` is where an answer goes.

    fact: what is asked, whatever the wording or direction: questions about one fact fall on one side of the split.
    asks: wordings; content: the material that they ask about. answer, wrong: right, and wrong in a likely way.
    misformatted: the right content in a form that was not asked for, or "" where the form is free.
    """

    fact: str
    asks: tuple[str, ...]
    content: str
    answer: str
    wrong: str
    reply: str = "{a}"
    misformatted: str = ""


def _pairs(table: str) -> list[list[str]]:
    return [pair.split() for pair in table.split(",")]


def _near(rng: Random, number: int, steps: tuple[int, ...] = (-2, -1, 1, 2)) -> str:
    """A number close to `number`, not below zero unless `number` is."""
    return str(number + rng.choice([step for step in steps if number < 0 or number + step >= 0]))


def _swapped(rng: Random, items: list[str]) -> list[str]:
    """`items` with two different neighbours exchanged."""
    at = rng.choice([i for i in range(len(items) - 1) if items[i] != items[i + 1]])
    return items[:at] + [items[at + 1], items[at]] + items[at + 2 :]


def _shuffled(rng: Random, items: list[str], unlike: list[str]) -> list[str]:
    """A random order of `items` that is not `unlike`."""
    mixed = rng.sample(items, len(items))
    return mixed if mixed != unlike else _swapped(rng, mixed)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def unit_conversion(rng: Random) -> Question:
    """Whole-number conversions, both directions: 3 kilometres is 3000 metres."""
    _, big, factor, _, small = rng.choice(UNITS)
    count = rng.randint(2, 60)
    start, goal, given, result = (big, small, count, count * factor)
    if rng.random() < 0.5:
        start, goal, given, result = (small, big, count * factor, count)
    wrong = str(result * 10 if rng.random() < 0.5 else result + rng.randint(1, 9))
    asks = (f"Convert {{x}} to {goal}.", f"How many {goal} are there in {{x}}?", f"Express {{x}} in {goal}.")
    asks += (f"Convert the quantity to {goal}.", f"Write this in {goal}.")
    content = f"{given} {start}"
    return Question(f"{count} {big}", asks, content, f"{result} {goal}", f"{wrong} {goal}", f"{content} is {{a}}.")


def sort_words(rng: Random) -> Question:
    """Alphabetical order, forwards or backwards."""
    words = rng.sample(NOUNS, rng.randint(4, 6))
    backwards = rng.random() < 0.3
    ordered = sorted(words, reverse=backwards)
    order = "reverse alphabetical order" if backwards else "alphabetical order"
    asks = (f"Sort these words in {order}: {{x}}", f"Put the words in {order}.", f"List the following in {order}.")
    content = ", ".join(_shuffled(rng, words, ordered))
    return Question(", ".join(sorted(words)), asks, content, ", ".join(ordered), ", ".join(_swapped(rng, ordered)))


def sort_numbers(rng: Random) -> Question:
    """Numbers by size, rising or falling."""
    numbers = sorted(rng.sample(range(1, 100), rng.randint(4, 6)))
    falling = rng.random() < 0.4
    ordered = [str(number) for number in (numbers[::-1] if falling else numbers)]
    order = "from largest to smallest" if falling else "from smallest to largest"
    asks = (f"Sort these numbers {order}: {{x}}", f"Order the numbers {order}.", f"Arrange the list {order}.")
    content = ", ".join(_shuffled(rng, ordered, ordered))
    return Question(str(numbers), asks, content, ", ".join(ordered), ", ".join(_swapped(rng, ordered)))


def count_letters(rng: Random) -> Question:
    """How often a letter occurs in a word."""
    word = rng.choice(LONG_WORDS)
    letter = rng.choice(sorted(set(word)))
    count = word.count(letter)
    asks = (f'How many times does the letter "{letter}" occur in the word "{{x}}"?',)
    asks += (f'Count the letter "{letter}" in "{{x}}".', f'Count how often the letter "{letter}" appears in the word.')
    reply = f'The number of times that "{letter}" occurs in "{word}" is {{a}}.'
    return Question(f"{letter} in {word}", asks, word, str(count), _near(rng, count), reply)


def reverse_word(rng: Random) -> Question:
    """A word spelt backwards."""
    word = rng.choice(NOUNS + LONG_WORDS + CATEGORIES["animal"] + CATEGORIES["fruit"])
    backwards = list(word[::-1])
    asks = ('Spell "{x}" backwards.', "Reverse the letters of the word.", 'Write the word "{x}" from back to front.')
    return Question(word, asks, word, "".join(backwards), "".join(_swapped(rng, backwards)))


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
    asks = ("Extract the e-mail address from the text.", "Find the e-mail address in this text: {x}")
    asks += ("What is the e-mail address in the following sentence? Reply with the address only.",)
    return Question(address, asks, text, address, address.replace(name, other))


def iso_date(rng: Random) -> Question:
    """A date in words, rewritten as year-month-day (ISO 8601)."""
    year, month, day = rng.randint(1950, 2030), rng.randint(1, 12), rng.randint(2, 27)
    written = f"{day} {MONTHS[month - 1]} {year}"
    place, thing = rng.choice(CITIES), rng.choice(GOODS)
    text = rng.choice(
        (
            f"The {thing} was delivered on {written}.",
            f"On {written} the library in {place} opened its doors.",
            f"{rng.choice(NAMES)} signed the lease for the {thing} shop on {written}.",
        )
    )
    asks = ("Find the date in the text and write it as YYYY-MM-DD.", "Give the date in ISO format (YYYY-MM-DD): {x}")
    asks += ("Which date does this sentence mention? Answer in the form YYYY-MM-DD.",)
    answer, wrong = (f"{year}-{month:02}-{d:02}" for d in (day, day + rng.choice((-1, 1))))
    return Question(answer, asks, text, answer, wrong, misformatted=written)


def day_of_week(rng: Random) -> Question:
    """Which weekday comes some days after or before another; never the same day, which would need no thought."""
    start, count = rng.randrange(7), rng.choice([n for n in range(2, 40) if n % 7])
    after = rng.random() < 0.6
    end = (start + count if after else start - count) % 7
    content = f"{count} days {'after' if after else 'before'} {WEEKDAYS[start]}"
    asks = ("What day of the week is {x}?", "Which weekday comes {x}?", "Name the day of the week.", "Which day is it?")
    wrong = WEEKDAYS[(end + 1) % 7] if (end + 1) % 7 != start else WEEKDAYS[end - 1]
    reply = f"{content[0].upper()}{content[1:]} is a {{a}}."
    return Question(f"{min(start, end)} {max(start, end)} {count}", asks, content, WEEKDAYS[end], wrong, reply)


def plural(rng: Random) -> Question:
    """Plural nouns, mostly irregular."""
    one, many = rng.choice(_pairs(PLURALS))
    wrong = one + "s" if one + "s" != many else one + "es"
    asks = ('What is the plural of "{x}"?', "Give the plural form of the noun.", 'Write "{x}" in the plural.')
    asks += ("Write the plural of this word.",)
    return Question(one, asks, one, many, wrong, f'The plural of "{one}" is "{{a}}".')


def past_tense(rng: Random) -> Question:
    """The simple past of a verb, mostly irregular."""
    verb, past = rng.choice(_pairs(PASTS))
    regular = verb + ("d" if verb.endswith("e") else "ed")
    wrong = regular if regular != past else verb + "s"
    asks = ('What is the past tense of "{x}"?', "Give the simple past of the verb.", 'Put the verb "{x}" in the past.')
    asks += ("Write the past tense of this verb. Reply with one word.",)
    return Question(verb, asks, verb, past, wrong)


def opposite(rng: Random) -> Question:
    """Words with one clear opposite, asked in both directions."""
    pairs = _pairs(OPPOSITES)
    pair, other = rng.sample(pairs, 2)
    word, answer = pair if rng.random() < 0.5 else pair[::-1]
    word, wrong = word.split("|")[0], other[0].split("|")[0]
    asks = ('What is the opposite of "{x}"?', "Give an antonym of the word.", 'Name the opposite of the word "{x}".')
    asks += ("Write a word that means the opposite.",)
    return Question(" ".join(pair), asks, word, answer, wrong, f'The opposite of "{word}" is "{{a}}".')


def change_case(rng: Random) -> Question:
    """Upper, lower or title case: the words stay, the letters' case changes."""
    phrase = rng.choice(SENTENCES).format(rng.choice(ADJECTIVES), *rng.sample(NOUNS, 2))
    mode, style = rng.choice((("upper case", str.upper), ("lower case", str.lower), (TITLE_CASE, str.title)))
    asks = (f"Rewrite the text in {mode}.", f"Change this to {mode}: {{x}}", f"Convert the sentence to {mode}.")
    words = style(phrase).split()
    wrong = " ".join(words[:-2] + words[-1:])
    return Question(phrase, asks, phrase, " ".join(words), wrong, misformatted=phrase.swapcase())


def to_json(rng: Random) -> Question:
    """A sentence about a person or a purchase, as a JSON object with the named keys."""
    if rng.random() < 0.5:
        record = {"name": rng.choice(NAMES), "age": rng.randint(18, 90), "city": rng.choice(CITIES)}
        text = "{name} is {age} years old and lives in {city}."
        fields = "name, age and city"
    else:
        record = {"item": rng.choice(GOODS), "quantity": rng.randint(2, 30), "price": rng.randint(31, 99)}
        text = "The shop has {quantity} pieces of the item {item}, at a price of {price} euros each."
        fields = "item, quantity and price"
    key = "age" if "age" in record else "quantity"
    asks = (f"Turn the sentence into a JSON object with the keys {fields}.",)
    asks += (f"Extract {fields} from this sentence as JSON: {{x}}", f"Return JSON with the fields {fields}.")
    wrong = json.dumps(record | {key: record[key] + 1})
    prose = "; ".join(f"{field} is {value}" for field, value in record.items())
    return Question(str(record), asks, text.format(**record), json.dumps(record), wrong, misformatted=prose)


def voice(rng: Random) -> Question:
    """Active to passive and back."""
    past, participle = rng.choice(_pairs(VERBS))
    doer, thing = f"the {rng.choice(JOBS)}", f"the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"

    def say(to: str, doer: str, thing: str) -> str:
        sentence = f"{doer} {past} {thing}." if to == "active" else f"{thing} was {participle} by {doer}."
        return sentence.capitalize()

    start, goal = rng.choice((("active", "passive"), ("passive", "active")))
    asks = (f"Rewrite the sentence in the {goal} voice.", f"Change this sentence to the {goal} voice: {{x}}")
    asks += (f"Turn the {start} sentence into its {goal} form.",)
    wrong = say(goal, thing, doer)
    return Question(f"{doer} {past} {thing}", asks, say(start, doer, thing), say(goal, doer, thing), wrong)


def arithmetic(rng: Random) -> Question:
    """One operation on whole numbers, with a whole result that is not one of the two numbers."""
    sign, a, b = rng.choice("+-*/"), rng.randint(12, 99), rng.randint(3, 11)
    if sign == "-" and a == 2 * b:
        a += 1
    start = a * b if sign == "/" else a
    result = {"+": a + b, "-": a - b, "*": a * b, "/": a}[sign]
    content = f"{start} {sign} {b}"
    asks = ("What is {x}?", "Calculate {x}.", "Work out the result.", "Compute the value of the expression.")
    return Question(content, asks, content, str(result), _near(rng, result, (-10, -1, 1, 10)), f"{content} = {{a}}")


def compare(rng: Random) -> Question:
    """The larger or the smaller of two numbers, some with decimals of unequal length (9.8 against 9.11)."""
    a, b = rng.sample(range(100, 999), 2)
    low, high = sorted((a, b))
    numbers = [str(low), str(high)]
    if rng.random() < 0.4:
        whole = rng.randint(1, 99)
        numbers = [f"{whole}.{rng.randint(11, 49)}", f"{whole}.{rng.randint(5, 9)}"]
    word = rng.choice(("larger", "smaller"))
    answer, wrong = numbers[::-1] if word == "larger" else numbers
    content = " and ".join(rng.sample(numbers, 2))
    asks = (f"Which number is {word}: {{x}}?", f"Which of the two numbers is {word}?", f"Name the {word} number.")
    return Question(" ".join(numbers), asks, content, answer, wrong, f"The {word} number is {{a}}.")


def acronym(rng: Random) -> Question:
    """The initials of a made-up society."""
    words = [word.title() for word in rng.sample(ADJECTIVES, 2) + rng.sample(NOUNS, rng.randint(1, 2)) + ["Society"]]
    letters = [word[0] for word in words]
    asks = ('What is the acronym of "{x}"?', "Form the acronym from the initial letters of the name.")
    asks += ("Shorten the name to its initials.",)
    name, answer = " ".join(words), "".join(letters)
    return Question(name, asks, name, answer, answer[:-1] + rng.choice("XZQ"))


def to_roman(number: int) -> str:
    """Roman numeral of 1 to 3,999, subtractive form (IV, IX, XL, ...)."""
    values = (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1)
    out = ""
    for value, numeral in zip(values, "M CM D CD C XC L XL X IX V IV I".split(), strict=True):
        count, number = divmod(number, value)
        out += numeral * count
    return out


def roman(rng: Random) -> Question:
    """Roman numerals from 2 to 399, both directions."""
    number = rng.randint(2, 399)
    near = int(_near(rng, number, (-1, 1, 2)))
    if rng.random() < 0.5:
        asks = ("Write {x} as a Roman numeral.", "Convert the number to Roman numerals.", "How do Romans write {x}?")
        return Question(str(number), asks, str(number), to_roman(number), to_roman(near), f"{number} is {{a}}.")
    asks = (
        "Which number is the Roman numeral {x}?",
        "Convert {x} to an ordinary number.",
        "What number is written here?",
    )
    return Question(str(number), asks, to_roman(number), str(number), str(near), f"{to_roman(number)} is {{a}}.")


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
    asks = (f"Keep only the {wanted} from the list.", f"Which of these are {wanted}? {{x}}")
    asks += (f"List just the {wanted}, in the given order.",)
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
    return Question(text, asks, text, str(count), _near(rng, count), "The text has {a} words.")


def sequence(rng: Random) -> Question:
    """The next term of an arithmetic or a doubling or tripling sequence."""
    start, step = rng.randint(1, 60), rng.choice([-3, -2, *range(2, 13)])
    terms = [start + 20 + step * i for i in range(5)]
    if rng.random() < 0.3:
        ratio = rng.choice((2, 3))
        terms = [(start % 12 + 1) * ratio**i for i in range(5)]
    content = ", ".join(map(str, terms[:4]))
    asks = ("Which number comes next: {x}?", "Continue the sequence with one number.", "What is the next number?")
    wrong = next(n for n in (terms[4] + 1, terms[4] - 1) if n not in terms)
    return Question(content, asks, content, str(terms[4]), str(wrong), "The next number is {a}.")


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
    asks = ("Say whether {x} names an animal, a fruit or a tool.", "Classify the word as animal, fruit or tool.")
    asks += ("Which category fits: animal, fruit or tool?", "Does {x} name an animal, a fruit or a tool?")
    answer, wrong = _article(category), _article(other)
    return Question(word, asks, f'"{word}"', answer, wrong, f"{subject} names {{a}}.")


def remove_repeats(rng: Random) -> Question:
    """A list with each word kept at its first place only."""
    words = rng.sample(NOUNS, rng.randint(3, 5))
    listed = rng.sample(words + rng.sample(words, 2), len(words) + 2)
    once = list(dict.fromkeys(listed))
    wrong = [*once, rng.choice(once)]
    asks = ("Remove the repeated words from the list.", "Give this list without duplicates: {x}")
    asks += ("List each word once, in order of first appearance.",)
    return Question(" ".join(listed), asks, ", ".join(listed), ", ".join(once), ", ".join(wrong))


FAMILIES: dict[str, Callable[[Random], Question]] = {
    family.__name__: family
    for family in (
        *(unit_conversion, sort_words, sort_numbers, count_letters, reverse_word, extract_email, iso_date),
        *(day_of_week, plural, past_tense, opposite, change_case, to_json, voice, arithmetic, compare, acronym),
        *(roman, filter_list, count_words, sequence, nth_word, classify, remove_repeats),
    )
}
