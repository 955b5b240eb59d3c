"""The families of `families` that reckon: units, sums, dates, weekdays, sequences, Roman numerals."""

from random import Random

from course_lib.data.generators.questions import Question, nearby, shuffled, swapped
from course_lib.data.generators.words import CITIES, GOODS, MONTHS, NAMES, UNITS, WEEKDAYS


def unit_conversion(rng: Random) -> Question:
    """Whole-number conversions, both directions: 3 kilometres is 3000 metres."""
    _, big, factor, _, small = rng.choice(UNITS)
    count = rng.randint(2, 60)
    start, goal, given, result = (big, small, count, count * factor)
    if rng.random() < 0.5:
        start, goal, given, result = (small, big, count * factor, count)
    wrong = str(result * 10 if rng.random() < 0.5 else result + rng.randint(1, 9))
    asks = (
        f"Convert {{x}} to {goal}.",
        f"How many {goal} are there in {{x}}?",
        f"Express {{x}} in {goal}.",
        f"Convert the quantity to {goal}.",
        f"Write this in {goal}.",
    )
    content = f"{given} {start}"
    return Question(f"{count} {big}", asks, content, f"{result} {goal}", f"{wrong} {goal}", f"{content} is {{a}}.")


def sort_numbers(rng: Random) -> Question:
    """Numbers by size, rising or falling."""
    numbers = sorted(rng.sample(range(1, 100), rng.randint(4, 6)))
    falling = rng.random() < 0.4
    ordered = [str(number) for number in (numbers[::-1] if falling else numbers)]
    order = "from largest to smallest" if falling else "from smallest to largest"
    asks = (f"Sort these numbers {order}: {{x}}", f"Order the numbers {order}.", f"Arrange the list {order}.")
    content = ", ".join(shuffled(rng, ordered, ordered))
    return Question(str(numbers), asks, content, ", ".join(ordered), ", ".join(swapped(rng, ordered)))


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
    asks = (
        "Find the date in the text and write it as YYYY-MM-DD.",
        "Give the date in ISO format (YYYY-MM-DD): {x}",
        "Which date does this sentence mention? Answer in the form YYYY-MM-DD.",
    )
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


def arithmetic(rng: Random) -> Question:
    """One operation on two whole numbers. The result is whole, and is not one of the two."""
    sign, a, b = rng.choice("+-*/"), rng.randint(12, 99), rng.randint(3, 11)
    if sign == "-" and a == 2 * b:
        a += 1
    start = a * b if sign == "/" else a
    result = {"+": a + b, "-": a - b, "*": a * b, "/": a}[sign]
    content = f"{start} {sign} {b}"
    asks = ("What is {x}?", "Calculate {x}.", "Work out the result.", "Compute the value of the expression.")
    return Question(content, asks, content, str(result), nearby(rng, result, (-10, -1, 1, 10)), f"{content} = {{a}}")


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


def to_roman(number: int) -> str:
    """The Roman numeral of a number from 1 to 3,999, in the subtractive form (IV, IX, XL, ...)."""
    values = (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1)
    out = ""
    for value, numeral in zip(values, "M CM D CD C XC L XL X IX V IV I".split(), strict=True):
        count, number = divmod(number, value)
        out += numeral * count
    return out


def roman(rng: Random) -> Question:
    """Roman numerals from 2 to 399, both directions."""
    number = rng.randint(2, 399)
    near = int(nearby(rng, number, (-1, 1, 2)))
    if rng.random() < 0.5:
        asks = ("Write {x} as a Roman numeral.", "Convert the number to Roman numerals.", "How do Romans write {x}?")
        return Question(str(number), asks, str(number), to_roman(number), to_roman(near), f"{number} is {{a}}.")
    asks = (
        "Which number is the Roman numeral {x}?",
        "Convert {x} to an ordinary number.",
        "What number is written here?",
    )
    return Question(str(number), asks, to_roman(number), str(number), str(near), f"{to_roman(number)} is {{a}}.")


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
